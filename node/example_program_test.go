package node_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/musterhq/muster/node"
)

// startAlone is the node of the examples: what they show is the same in a cluster.
func startAlone() *node.Node {
	n, err := node.Start(context.Background(), node.Config{Alone: true, NodeID: "one"})
	if err != nil {
		log.Fatal(err)
	}
	for range n.Views(context.Background()) {
		break // it sees itself
	}
	return n
}

// A program that is in no cluster uses the code of one that is.
func ExampleConfig_alone() {
	n, err := node.Start(context.Background(), node.Config{Alone: true})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Leave(context.Background())
	ctx, done := context.WithCancel(context.Background())
	n.WhileMaster(ctx, func(_ context.Context, term node.Term) error {
		fmt.Println("master in term", term)
		done()
		return nil
	})
	// Output: master in term 1
}

func ExampleNode_Store() {
	n := startAlone()
	defer n.Leave(context.Background())
	ctx := context.Background()
	revision, err := n.Store().Set(ctx, "job/nightly", []byte("claimed"), 0) // 0: there is none
	if err != nil {
		log.Fatal(err)
	}
	if _, err := n.Store().Set(ctx, "job/nightly", []byte("done"), revision); err != nil {
		log.Fatal(err)
	}
	for records, err := range n.Store().Watch(ctx, "job/") {
		if err != nil {
			continue // it goes on
		}
		fmt.Printf("%s is %s\n", records[0].Key, records[0].Value)
		break
	}
	// Output: job/nightly is done
}

func ExampleNode_Dial() {
	n := startAlone()
	defer n.Leave(context.Background())
	listener, err := n.Listen("greet")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the node has ended
			}
			fmt.Fprintf(conn, "hello, %s", node.PeerOf(conn).NodeID)
			conn.Close()
		}
	}()
	conn, err := n.Dial(context.Background(), "greet", n.View().Self())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	greeting, err := io.ReadAll(conn)
	fmt.Println(string(greeting), err)
	// Output: hello, one <nil>
}

func ExampleNode_Abstain() {
	n := startAlone()
	defer n.Leave(context.Background())
	end := n.Abstain("the copy of the data is not in sync")
	// ... bring it in sync ...
	end()
}

func ExampleNode_OnLeave() {
	n := startAlone()
	n.OnLeave(func(context.Context) { fmt.Println("files closed") })
	n.OnLeave(func(context.Context) { fmt.Println("work handed over") })
	n.Leave(context.Background())
	// Output:
	// work handed over
	// files closed
}

func ExampleNode_Update() {
	n := startAlone()
	defer n.Leave(context.Background())
	if err := n.Update(func(d *node.Details) { d.Tags = append(d.Tags, "warm") }); err != nil {
		log.Fatal(err)
	}
	for view := range n.Views(context.Background()) {
		if tags := view.Self().Tags; len(tags) > 0 {
			fmt.Println(tags)
			break
		}
	}
	// Output: [warm]
}

func ExampleNode_AllViews() {
	n := startAlone()
	defer n.Leave(context.Background())
	for view, err := range n.AllViews(context.Background()) {
		if err != nil {
			log.Fatal(err) // the reader was too slow
		}
		fmt.Println(len(view.Members), "member")
		break
	}
	// Output: 1 member
}
