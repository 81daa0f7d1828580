package registrar

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// anyT is a *testing.T without its Deadline, which a bubble of virtual time does
// not allow.
type anyT struct{ rapid.TB }

// Whatever happens, the provider holds the desired state within a TTL after it has
// become well, and nothing of this registrar after Stop and a TTL.
func TestDesiredStateIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(anyT{t}, func(rt *rapid.T) {
			t := rt
			l := newModelLab(t)
			desired := make(map[string]driver.Instance)
			set := func() {
				var all []driver.Instance
				for _, i := range desired {
					all = append(all, i)
				}
				if err := l.Set(all...); err != nil {
					t.Fatalf("Set: %v", err)
				}
			}
			ids := rapid.SampledFrom([]string{"a", "b", "c", "d"})
			ops := rapid.SampledFrom([]string{"open", "renew", "register", "deregister", "watch"})
			durations := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 300 * time.Millisecond, time.Second, ttl / 3, ttl / 2, ttl, 2 * ttl})
			t.Repeat(map[string]func(*rapid.T){
				"want": func(t *rapid.T) {
					i := instance(ids.Draw(t, "id"), rapid.IntRange(1, 3).Draw(t, "port"))
					desired[i.InstanceID] = i
					set()
				},
				"unwant": func(t *rapid.T) {
					delete(desired, ids.Draw(t, "id"))
					set()
				},
				"eviction": func(t *rapid.T) {
					l.memory.Put(leftBehind)
					if err := l.Evict(leftBehind); err != nil {
						t.Fatalf("Evict: %v", err)
					}
				},
				"time passes": func(t *rapid.T) {
					after(durations.Draw(t, "for"))
				},
				"outage":         func(t *rapid.T) { l.memory.Fail(driver.ErrUnavailable) },
				"outage ends":    func(t *rapid.T) { l.memory.Fail(nil) },
				"slow":           func(t *rapid.T) { l.memory.Delay(ttl / 2) },
				"fast":           func(t *rapid.T) { l.memory.Delay(0) },
				"answers lost":   func(t *rapid.T) { l.memory.LoseResponses(true) },
				"answers arrive": func(t *rapid.T) { l.memory.LoseResponses(false) },
				"one call fails": func(t *rapid.T) { l.tap.on(ops.Draw(t, "op"), unavailable) },
				"one call hangs": func(t *rapid.T) { l.tap.on(ops.Draw(t, "op"), hang) },
				"one call works": func(t *rapid.T) { l.tap.on(ops.Draw(t, "op"), nil) },
				"expiry":         func(t *rapid.T) { l.memory.ExpireSessions() },
				"wipe":           func(t *rapid.T) { l.memory.Wipe() },
				"delete":         func(t *rapid.T) { l.memory.Remove(instance(ids.Draw(t, "id"), 1)) },
				"compaction":     func(t *rapid.T) { l.memory.Compact() },
			})
			l.heal()
			// The calls in flight may have to be given up first.
			after(5*time.Second + ttl)
			if _, ok := l.published("web")[leftBehind.InstanceID]; ok {
				// It was put there again while its eviction came to an end.
				if err := l.Evict(leftBehind); err != nil {
					t.Fatalf("Evict: %v", err)
				}
				after(5*time.Second + ttl)
			}
			var want []driver.Instance
			for _, i := range desired {
				want = append(want, i)
			}
			if got := l.published("web"); !sameSet(got, want) {
				t.Fatalf("a TTL after all was well the provider holds\n%+v\nwant\n%+v\nstatus %+v", got, want, l.Status())
			}
			s := l.Status()
			if !s.Session.Open || s.Session.Err != nil || len(s.Instances) != len(want) || s.Registered() != (len(want) > 0) {
				t.Fatalf("status %+v, want %d instances registered", s, len(want))
			}
			if slices.ContainsFunc(s.Instances, func(i InstanceStatus) bool { return i.Err != nil || i.Attempts != 0 }) {
				t.Fatalf("status %+v, want no errors", s.Instances)
			}
			if err := l.Stop(context.Background()); err != nil {
				t.Fatalf("Stop: %v", err)
			}
			if got := l.published("web"); len(got) != 0 {
				t.Fatalf("after Stop the provider holds %+v", got)
			}
		})
	})
}

// leftBehind is what another process has registered and nobody wants.
var leftBehind = instance("left", 9)

func newModelLab(t *rapid.T) *lab {
	l := newLab(t, memory.New(), Config{})
	t.Cleanup(func() { l.heal(); l.Stop(context.Background()) })
	return l
}

func (l *lab) heal() {
	l.memory.Fail(nil)
	l.memory.Delay(0)
	l.memory.LoseResponses(false)
	for _, op := range []string{"open", "renew", "register", "deregister", "watch", "close"} {
		l.tap.on(op, nil)
	}
}
