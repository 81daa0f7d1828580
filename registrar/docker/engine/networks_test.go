package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// wired is an engine that says what its networks are, and counts how often.
type wired struct {
	Engine   // which is not asked for anything else
	networks map[string]Network
	err      error
	asked    int
}

func (w *wired) Network(_ context.Context, id string) (Network, error) {
	w.asked++
	if w.err != nil {
		return Network{}, w.err
	}
	n, ok := w.networks[id]
	if !ok {
		return Network{}, fmt.Errorf("%w: no such network", driver.ErrNotFound)
	}
	return n, nil
}

// Of which kind a network is, is asked once; an engine that does not say it is left alone
// for a while, and what it has said before counts on.
func TestNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wired{networks: map[string]Network{"n1": {Driver: "macvlan", Internal: true}, "back": {Driver: "bridge"}}}
		n := NewNetworks(w)
		c := Container{NetworkSettings: NetworkSettings{Networks: map[string]Endpoint{
			"lan": {NetworkID: "n1", IPAddress: "192.168.66.50"}, "back": {IPAddress: "172.30.0.5"},
		}}}
		complete := func(asked int, drivers string) {
			t.Helper()
			w.asked = 0
			done := n.Complete(t.Context(), c).NetworkSettings.Networks
			if have := fmt.Sprint(done["lan"].Driver, done["lan"].Internal, done["back"].Driver); have != drivers || w.asked != asked {
				t.Errorf("%s, asked %d times; want %s, and %d", have, w.asked, drivers, asked)
			}
			if c.NetworkSettings.Networks["lan"].Driver != "" {
				t.Error("the container itself is changed")
			}
		}
		complete(2, "macvlantruebridge")
		complete(1, "macvlantruebridge") // that without an id may be another one by now
		w.err = fmt.Errorf("%w: a proxy", driver.ErrDenied)
		complete(1, "macvlantrue")
		complete(0, "macvlantrue")
		w.err = nil
		time.Sleep(time.Minute)
		complete(1, "macvlantruebridge")
		w.err = errors.New("no answer")
		complete(1, "macvlantrue")
		time.Sleep(time.Minute)
		w.err = fmt.Errorf("%w: gone", driver.ErrNotFound)
		complete(1, "macvlantrue")
		complete(1, "macvlantrue") // that one is gone says nothing of the others

		usual := Container{NetworkSettings: NetworkSettings{Networks: map[string]Endpoint{"bridge": {IPAddress: "172.17.0.5"}, "host": {}, "none": {}}}}
		w.asked = 0
		if n.Complete(t.Context(), usual); w.asked != 0 {
			t.Errorf("asked %d times for the networks that every engine has", w.asked)
		}
		if have := NewNetworks(struct{ Engine }{}).Complete(t.Context(), c); have.NetworkSettings.Networks["lan"].Driver != "" {
			t.Errorf("an engine that cannot be asked says %+v", have)
		}
	})
}
