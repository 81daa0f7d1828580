package engine

import (
	"context"
	"iter"
)

// Engine is a container engine, so far as Muster needs it. Each method makes one
// attempt. It is safe for concurrent use.
type Engine interface {
	// Running returns the ids of the containers that run.
	Running(ctx context.Context) ([]string, error)

	// Inspect returns what the engine says of a container, by its id or name. The
	// error wraps driver.ErrNotFound if there is no such container.
	Inspect(ctx context.Context, id string) (Container, error)

	// Events yields what happens to containers, from the moment of the call on. The
	// first event is zero and says that nothing will be missed from here on. The
	// sequence ends with an error, or with ctx.
	Events(ctx context.Context) iter.Seq2[Event, error]
}

// Event is something that has happened to a container.
type Event struct {
	ID     string // of the container
	Action string // such as start, die, health_status: healthy
}
