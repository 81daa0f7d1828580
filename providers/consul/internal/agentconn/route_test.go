package agentconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// However many agents are met over the years, a few are remembered.
func TestAgentsThatAreRemembered(t *testing.T) {
	w := NewRoute("consul.test:8500", nil)
	ours, _ := net.Pipe()
	for i := range 1000 {
		_, used := w.use(ours, AgentID{Node: fmt.Sprint("n", i)})
		if used != (i == 0) {
			t.Fatalf("the connection to agent %d is used: %v", i, used)
		}
		w.Meet(AgentID{Node: fmt.Sprint("m", i)})
	}
	if n := len(w.others); n != maxOthers {
		t.Errorf("%d agents are remembered, want %d", n, maxOthers)
	}
	if text := w.Warning(); !strings.Contains(text, "n0") || len(text) > 2000 {
		t.Errorf("the warning has %d bytes: %.200s", len(text), text)
	}
}

// An agent that answers with an error, as when it is overloaded, is asked again after a pause, and
// not without end.
func TestAgentThatIsOverloadedIsAskedWithPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		broken := errors.New("429 too many requests")
		w := NewRoute("consul.test:8500", func(context.Context, net.Conn) (AgentID, error) { asked++; return AgentID{}, broken })
		dial := w.Dialer(func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			theirs.Close()
			return ours, nil
		})
		began := time.Now()
		if _, err := dial(t.Context(), "tcp", "consul.test:8500"); !errors.Is(err, broken) {
			t.Errorf("dial returned %v", err)
		}
		const want = 50 + 100 + 200 + 4*400
		if took := time.Since(began); asked != askTries || took != want*time.Millisecond {
			t.Errorf("asked %d times within %v; want %d within %d ms", asked, took, askTries, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := dial(ctx, "tcp", "consul.test:8500"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("with a second left, dial returned %v after %v", err, time.Since(began))
		}
	})
}
