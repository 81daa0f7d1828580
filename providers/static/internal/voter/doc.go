// Package voter is a node's place among the voters of the static list: whether it is one, its part
// in Raft from start to stop, and what it knows of the others. It grants nothing: package quorum
// does that on top of it.
//
//	lifecycle.go  the one goroutine that polls the others and takes the step that is due
//	electorate.go the list of voters, and what the others answered last
//	identify.go   which entry of the list this node is
//	directory.go  what a voter keeps on disk, and what that proves
//	founding.go   how voters with empty directories found a cluster
//	reconcile.go  how the leader brings Raft's configuration closer to the list
//	mismatch.go   a voter whose directory contradicts what the others answer
//	member.go     the part in Raft, while there is one
//	status.go     what the node reports, and what an operator should fix
//	api.go        the requests of nodes to each other
//	tasks.go      the goroutines, which Close joins
package voter
