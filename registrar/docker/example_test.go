package docker_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/docker/engine"
)

func ExampleDetector() {
	client, err := engine.New(engine.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	detector := docker.NewDetector(docker.DetectorOptions{Engine: client})
	bound := netip.MustParseAddrPort("0.0.0.0:7946") // what the listener reports
	found, err := advertise.Resolve(context.Background(), "docker", bound, advertise.Options{
		Detectors: []advertise.Detector{detector},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found.Addr, found.Source)
}
