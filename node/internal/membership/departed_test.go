package membership

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// departed collects the instances that a member reports as departed.
type departed struct {
	mu  sync.Mutex
	ids []string
}

func (d *departed) into(c *Config) {
	c.Departed = func(instanceID string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.ids = append(d.ids, instanceID)
	}
}

func (d *departed) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.ids)
}

// A member has departed when it said so, and when a later start of its node is there. Silence
// alone is no departure, however long.
func TestDepartedIsWhoLeftOrWasReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var gone departed
		a := start(t, net, "a", 1, gone.into)
		b, c := start(t, net, "b", 2), start(t, net, "c", 3)
		a.peers(2, 3, 4)
		see(5*time.Second, "a b c", a, b, c)

		b.crash()
		see(20*time.Second, "a c", a, c)
		time.Sleep(time.Minute)
		if got := gone.all(); len(got) != 0 {
			t.Errorf("%q fell silent, and nothing more is known", got)
		}
		again := start(t, net, "b", 4)
		see(20*time.Second, "a b c", a, c, again)
		if got, want := gone.all(), []string{b.cfg.InstanceID}; !slices.Equal(got, want) {
			t.Errorf("departed %q, want %q, which was replaced", got, want)
		}

		if err := c.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		see(5*time.Second, "a b", a, again)
		if got, want := gone.all(), []string{b.cfg.InstanceID, c.cfg.InstanceID}; !slices.Equal(got, want) {
			t.Errorf("departed %q, want %q, of which the second has left", got, want)
		}
	})
}

// A node that is started again before anybody misses it has departed as its old instance.
func TestDepartedIsWhoWasRestarted(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var gone departed
		a, b := start(t, net, "a", 1, gone.into), start(t, net, "b", 2)
		a.peers(2)
		b.peers(1)
		see(5*time.Second, "a b", a, b)
		b.crash()
		time.Sleep(100 * time.Millisecond)
		again := start(t, net, "b", 2)
		again.peers(1)
		eventually(t, 10*time.Second, "the old instance has departed", func() bool {
			return slices.Equal(gone.all(), []string{b.cfg.InstanceID})
		})
	})
}
