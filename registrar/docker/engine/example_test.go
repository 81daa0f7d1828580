package engine_test

import (
	"context"
	"fmt"
	"log"

	"github.com/musterhq/muster/registrar/docker/engine"
)

func ExampleClient_Events() {
	client, err := engine.New(engine.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for event, err := range client.Events(context.Background()) {
		switch {
		case err != nil:
			log.Print(err) // the stream has ended: subscribe again, and look at all again
		case event == (engine.Event{}):
			fmt.Println("nothing is missed from here on")
		default:
			fmt.Println(event.ID, event.Action)
		}
	}
}
