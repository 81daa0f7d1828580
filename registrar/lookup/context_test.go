package lookup

import (
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
)

// deafRegistry says nothing before its channel is closed, whatever becomes of its context.
type deafRegistry chan struct{}

func (r deafRegistry) Watch(context.Context, discovery.Query) iter.Seq[discovery.Snapshot] {
	return func(func(discovery.Snapshot) bool) { <-r }
}

func TestLookupsEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := make(deafRegistry)
		l := Lookup{Registry: registry, Service: "orders", Tag: "me"}
		for name, find := range map[string]func(context.Context) ([]Mapping, error){"Me": l.Me, "Peers": l.Peers, "All": l.All} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			begun := time.Now()
			_, err := find(ctx)
			cancel()
			if took := time.Since(begun); took > 1200*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v after %v, want the end of its context", name, err, took)
			}
		}
		close(registry)
	})
}
