package host

import (
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// deafEngine answers nothing before its channel is closed, whatever becomes of its
// contexts.
type deafEngine chan struct{}

func (e deafEngine) Running(context.Context) ([]string, error) { <-e; return nil, errors.New("deaf") }
func (e deafEngine) Inspect(context.Context, string) (engine.Container, error) {
	<-e
	return engine.Container{}, errors.New("deaf")
}

func (e deafEngine) Events(context.Context) iter.Seq2[engine.Event, error] {
	return func(func(engine.Event, error) bool) { <-e }
}

func TestStopEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := make(deafEngine)
		r, err := Start(Config{
			Registries: []*discovery.Registry{discovery.New("one", memory.New().Driver(), discovery.Options{})},
			Engine:     engine,
			Rules:      grammar.Rules{Hostname: "hostname", HostIP: "192.168.1.102"},
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop := func(bound time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			begun := time.Now()
			err := r.Stop(ctx)
			if took := time.Since(begun); took > bound+200*time.Millisecond {
				t.Errorf("Stop took %v where %v were given", took, bound)
			}
			return err
		}
		first := make(chan error, 1)
		go func() { first <- stop(time.Minute) }()
		synctest.Wait()
		if err := stop(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second Stop: %v, want the end of its context", err)
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop: %v, want the end of its context", err)
		}
		close(engine)
		if err := r.Stop(t.Context()); err != nil {
			t.Errorf("Stop when all has ended: %v", err)
		}
	})
}
