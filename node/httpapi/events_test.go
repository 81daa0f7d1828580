package httpapi_test

import (
	"bufio"
	"context"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
)

// naming is a provider whose authority finds out late which of its voters the node is, as a
// static list does whose names do not resolve at first.
type naming struct {
	driver.Driver
	driver.Registrar
	inner driver.Authorizer
	named chan struct{} // closed when it has
}

func (n naming) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	a, err := n.inner.OpenAuthority(ctx, o)
	return namingAuthority{a, n.named}, err
}

type namingAuthority struct {
	driver.Authority
	named chan struct{}
}

func (a namingAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		found := func() bool {
			select {
			case <-a.named:
				return true
			default:
				return false
			}
		}
		if !found() {
			go func() {
				select {
				case <-a.named:
					cancel() // the caller observes again
				case <-ctx.Done():
				}
			}()
		}
		for m, err := range a.Authority.Observe(ctx) {
			if found() && err == nil {
				m.Voter = "n1:7946"
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// The stream says what has changed of a member that was updated, and nothing of the kind in any
// other event; and that the master is lost is an event of its own, which names the last.
func TestEventsOfUpdatesAndOfTheMasterLost(t *testing.T) {
	memory := memory.New()
	inner := memory.Driver()
	provider := naming{inner, inner.(driver.Registrar), inner.(driver.Authorizer), make(chan struct{})}
	url := serve(t, memory, "a", func(c *node.Config) {
		registry := discovery.New("memory", provider, discovery.Options{})
		t.Cleanup(func() { _ = registry.Close() })
		c.Registries = []*discovery.Registry{registry}
	})
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+httpapi.PathEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var master httpapi.Master
	updated, lost := false, false
	name := ""
	lines := bufio.NewScanner(response.Body)
	for !lost && lines.Scan() {
		if kind, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			name = kind
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var event httpapi.Event
		decode(t, data, &event)
		if event.Kind != name || strings.Contains(data, `"changed"`) != (event.Kind == "member_updated") {
			t.Errorf("event %s: %s", name, data)
		}
		switch event.Kind {
		case "master_changed":
			master = *event.Master
			close(provider.named)
		case "member_updated":
			updated = true
			if !slices.Equal(event.Changed, []string{"voter"}) || event.Member == nil || event.Member.NodeID != "a" || event.Master != nil {
				t.Errorf("member_updated: %s", data)
			}
			memory.Fail(driver.ErrUnavailable)
			defer memory.Fail(nil)
		case "master_lost":
			lost = true
			if m := event.Master; m == nil || m.NodeID != "a" || m.Term != master.Term || m.ClusterID != master.ClusterID || event.Member != nil {
				t.Errorf("master_lost: %s, and the master was %+v", data, master)
			}
		}
	}
	if !updated || !lost || master.Term == 0 {
		t.Errorf("updated %v, lost %v, master %+v: the stream ended: %v", updated, lost, master, lines.Err())
	}
}
