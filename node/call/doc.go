// Package call has the members of a cluster call each other with gRPC, over the one port of a node:
// one member, several, and the master. Generated clients and servers work as they always do.
//
//	mesh, err := call.Open(n, call.Options{})
//	orders.RegisterOrdersServer(mesh, server)            // as with a grpc.Server
//	err = mesh.Start()                                   // members can call from now on
//
//	client := orders.NewOrdersClient(mesh.Master())      // or mesh.Node("node-2")
//	answer, err := client.Count(ctx, &orders.CountRequest{})
//
// Without generated code, and with JSON:
//
//	call.Handle(mesh, "orders.Count", func(ctx context.Context, f Filter) (int, error) { … })
//	total, err := call.Invoke[int](ctx, mesh.Master(), "orders.Count", Filter{Open: true})
//
// # What it promises
//
//  1. Each call ends by its deadline, which is 5 s where the context has none, in one of these: an
//     answer, an error of the handler, ErrLeft, ErrUnreachable, context.DeadlineExceeded,
//     context.Canceled, ErrNotReady, ErrNoHandler, ErrOverloaded, *NotMasterError, ErrNoMaster or
//     ErrUncertain. [MayHaveRun] says of each whether the handler may have run. The errors have the
//     codes of gRPC.
//  2. [Mesh.Node] means the instance that is a member when the call begins, and the answer comes
//     from that one. When it departs the call ends with ErrLeft at once. The id of no member is
//     ErrLeft at once.
//  3. [Mesh.Master] reaches a node that is master at the moment at which the handler begins, or
//     else nothing has run. The handler's context ends with the mastership, and a hand-over in good
//     order waits for the handler, for the drain timeout of the mastership at most. If the
//     mastership ended before the handler returned, the call ends with the handler's error, or with
//     ErrUncertain if it has none.
//  4. What may have run is sent again only if the call is [Idempotent]. What provably has not run
//     is sent again to the next master, until the deadline.
//  5. A node that knows of an earlier term than the caller runs no call to the master until it has
//     read the authority.
//  6. A handler knows who calls: [From]. [Each] calls all members and yields what became of each
//     call as it ends; in a handler it calls nobody, unless it is allowed to.
//  7. [Mesh.Pool] calls one of the members that serve a method, and others where that provably has
//     not run: see there. [Limit] holds where the work is done.
//
// A node in no cluster calls itself, and is its own master.
//
// # A cap for the whole cluster
//
// What a system behind the cluster can bear does not grow with the cluster. [Mesh.Cap] bounds what
// all nodes do at a time, together, by name, with a total that any node can change at run time:
//
//	db := mesh.Cap("db")
//	err := db.Init(ctx, 40)                // unless it is set
//	ctx, release, err := db.Acquire(ctx)   // waits for a place
//	defer release()
//
// Options.Caps puts methods under a cap. The master divides the total among the nodes that use it,
// as leases, and there are never more places than the total, also across a failover: a new master
// renews what the nodes have, and hands out the rest when all that the one before can have granted
// is over. A place whose lease cannot be renewed is lost, and its context ends.
//
// # What it does not promise
//
// There is no order between two calls, and a call is not done exactly once: one that may be sent
// again may be done twice, and of one that ended with an error it may not be known whether it was.
// Have the caller send an id of what is to be done, and the handler know it again.
//
// A node that was paused in a handler of the master may go on beside the next master. Attach the
// term that [From] returns to what the handler changes.
//
// Without TLS a caller may be anyone who knows the cluster's name.
//
// # Streams
//
// They have no deadline of their own, and are sent once, to one instance. When that departs they
// end with ErrLeft. Those to the master end when the handler returns, whose context ends with the
// mastership.
//
// # Other programs
//
// A program in any language, beside the node, serves calls of members by [Forward], and makes calls
// by a plain listener with [Mesh.Forwarding]: no message is looked at. The promises are the same.
//
// # Limits
//
// Messages have 4 MiB at most: see grpc.MaxRecvMsgSize. There is one connection to each instance
// that is called, which closes after five minutes without a call.
//
// # How it is built and tested
//
// Where a call to the master is sent, and when it is sent again, is decided by a machine without
// clocks, goroutines and connections (route.go), as is what the called node may run. The tests run
// thousands of random histories of it, with masters that crash, pause and resign, and callers that
// learn of it late; a checker that knows what has truly happened verifies the promises, and is
// shown to notice each rule that is broken.
//
//	go test ./node/call -run 'TestModel$' -seeds 100000
//	go test ./node/call -run 'TestModel$' -seed 42 -v
package call
