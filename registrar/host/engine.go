package host

import "github.com/musterhq/muster/registrar/internal/watcher"

// Deregister says when what was registered of a container that has ended is taken away.
type Deregister string

const (
	// DeregisterAlways takes it away when the container ends.
	DeregisterAlways Deregister = "always"
	// DeregisterOnSuccess keeps it if the container failed: if it ended with another status
	// than 0 and than those of signals, 128 and up. It stays until the container runs
	// again or is removed.
	DeregisterOnSuccess Deregister = "on-success"
)

// EngineStatus is what a Registrar knows of the container engine.
type EngineStatus struct {
	// Connected says that events arrive, and that the containers were listed since they do.
	Connected bool
	// Synced says further that each container that was listed has been inspected since,
	// or failed to be.
	Synced bool
	// Err is why the engine cannot be followed. Nil while it is.
	Err error
	// Containers are those that run and those whose services are kept, by name.
	Containers []ContainerStatus
	Counters   EngineCounters
}

// ContainerStatus is one container as a Registrar knows it.
type ContainerStatus struct {
	ID, Name string
	// Running is false for one that has ended and whose services are kept.
	Running bool
	// Kept says why they are.
	Kept string
	// LeftOut says why it, or some port of it, is not registered though nothing is wrong.
	LeftOut []string
	// Err joins why it could not be inspected last, and what is wrong with its services.
	Err error
}

// EngineCounters count from the start of the Registrar.
type EngineCounters struct {
	Connects      uint64 // times that events began to arrive
	ConnectErrors uint64 // times that they ended, or did not begin, and failed lists
	Events        uint64 // those of interest
	Lists         uint64
	Inspections   uint64
	InspectErrors uint64
}

func engineStatus(v watcher.View) *EngineStatus {
	s := &EngineStatus{Connected: v.Connected, Synced: v.Synced, Err: v.Err, Counters: EngineCounters(v.Counters)}
	for _, c := range v.Containers {
		s.Containers = append(s.Containers, ContainerStatus{ID: c.ID, Name: c.Name, Running: c.Running, Kept: c.Kept, LeftOut: c.LeftOut, Err: c.Err})
	}
	return s
}
