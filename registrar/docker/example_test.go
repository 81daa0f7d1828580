package docker_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
)

func ExampleDetector() {
	engine, err := docker.New(docker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	detector := docker.NewDetector(docker.DetectorOptions{Engine: engine})
	bound := netip.MustParseAddrPort("0.0.0.0:7946") // what the listener reports
	found, err := advertise.Resolve(context.Background(), "docker", bound, advertise.Options{
		Detectors: []advertise.Detector{detector},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found.Addr, found.Source)
}

func ExampleClient_Events() {
	engine, err := docker.New(docker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	for event, err := range engine.Events(context.Background()) {
		switch {
		case err != nil:
			log.Print(err) // the stream has ended: subscribe anew, and look at all again
		case event == (docker.Event{}):
			fmt.Println("nothing is missed from here on")
		default:
			fmt.Println(event.ID, event.Action)
		}
	}
}
