// Package host keeps what runs on a host registered: the containers of its engine, and
// services that are no containers, each with every provider that it is given.
//
//	r, err := host.Start(host.Config{Registries: registries, Engine: engine, Rules: grammar.Rules{Hostname: "web-1"}})
//	defer r.Stop(context.Background())
//
// Each provider has a session of its own, and none waits for another. What package
// docker and package check find out is the desired state; package registrar makes each
// provider hold it.
//
// With Config.Cleanup it takes away what containers of this host have left behind that are
// gone. It goes by the ids: HOSTNAME:CONTAINER:PORT, as Muster and gliderlabs/registrator
// write them, with this host's name and that of a container which does not run here.
// Other ids are never touched, nor are those of Config.Services and of a node that has the
// host's name; and nothing is as long as it is not known what runs, or that was not seen
// twice without a change. What is taken away and comes back is somebody else's who keeps it
// up, and is left alone: such as a second Registrar with this host's name and a node that is
// named otherwise, whose ids have that form, too, and which are missing for a moment once
// after each start.
package host
