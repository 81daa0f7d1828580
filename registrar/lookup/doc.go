// Package lookup asks a registry what a registrar has registered of a container, so
// that a program within learns at which addresses of its host it is reached, and
// where its peers are, without a way to the container engine.
//
// The registrar is Muster's own or gliderlabs/registrator, which gives entries the id
// HOST:CONTAINER:PORT, with ":udp" behind it for UDP: the port is the container's, the
// entry's address that of the host. A program cannot know its host or its
// container, but it can know a tag that no other container has, since the one who starts
// it can say that twice:
//
//	docker run -e SERVICE_NAME=my-app -e SERVICE_TAGS=dev,c1 -e MY_TAG=c1 -P my-app
//
//	l := lookup.Lookup{Registry: registry, Service: "my-app", Tag: os.Getenv("MY_TAG"), Ports: []uint16{8080}}
//	me, err := l.Me(ctx)     // waits until the registrar has come to it
//	peers, err := l.Peers(ctx)
//
// A container is found whichever way its ports are named: under the bare name, as
// where only one is published or each has its own SERVICE_<port>_NAME, or under the name
// with the port behind it, "my-app-8080", as where several are.
//
// # What a registry must show
//
// Ids, and unhealthy entries: a program that waits for its address may well be what its
// check waits for. For Consul set HealthyOnly to false. For etcd, format registrator
// reads the tree of registrator, which has no tags, so that the container's name stands
// for one; format muster reads that of Muster's registrar, which has.
//
// [Detector] makes of a look-up a step by which package advertise finds the address of
// a node.
package lookup
