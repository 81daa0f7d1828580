package docker

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/registrar/docker/engine"
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

func TestDetectEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := make(deafEngine)
		d := NewDetector(DetectorOptions{Engine: engine, environment: &environment{
			root:      fstest.MapFS{".dockerenv": {}},
			lookupEnv: func(string) (string, bool) { return "", false },
			hostname:  func() (string, error) { return "0123456789ab", nil },
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := d.Detect(ctx, netip.MustParseAddrPort("172.17.0.2:7946"))
		if took := time.Since(begun); took < time.Second || took > 1200*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v, want the end of its context", err, took)
		}
		close(engine)
	})
}
