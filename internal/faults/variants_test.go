package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/netlab"
)

// The attacks are worth something only if they would notice. Each variant breaks one
// rule that safety rests on, in the real program, and a run of it has to fail and to
// name the promise that is broken.
func TestBrokenVariants(t *testing.T) {
	alone(t)
	for _, v := range []struct {
		name      string
		env       string
		invariant string // the one that must be named
		options   Options
		args      []string
		run       func(l *Lab)
	}{
		{
			name: "deadline counted from the receipt", env: "MUSTER_FAULT_RULE=deadline-from-receipt", invariant: "I2",
			options: Options{Provider: "etcd", TTL: 15 * time.Second, Proxied: true},
			run: func(l *Lab) {
				m := l.Form()
				l.DelayStore(1300*time.Millisecond, m) // a renewal is two calls
				l.Renewed(m)                           // this one may have been answered in time
				l.Renewed(m)
				m.Pause() // before the next one is sent
				l.Master(l.Others(m), m)
				m.Resume()
			},
		},
		{
			name: "no check at use", env: "MUSTER_FAULT_RULE=no-check-at-use", invariant: "I6",
			options: Options{Provider: "etcd"},
			run: func(l *Lab) {
				for range 3 {
					m := l.Form()
					m.Pause()
					l.Master(l.Others(m), m)
					m.Resume()
				}
			},
		},
		{
			name: "an acquire without an answer taken for a grant", env: "MUSTER_FAULT_RULE=phantom-grant", invariant: "I2",
			options: Options{Provider: "static"},
			run: func(l *Lab) {
				l.StartAll() // and before there is a cluster nobody is granted anything
				l.Sleep(6 * time.Second)
			},
		},
		{
			name: "released before the drain", env: "MUSTER_FAULT_RULE=released-before-drain", invariant: "I2",
			options: Options{Provider: "etcd"}, args: []string{"-linger", "800ms"},
			run: func(l *Lab) {
				m := l.Form()
				m.Stop()
				l.Master(l.Others(m), m)
			},
		},
		{
			name: "a term used again", env: "MUSTER_FAULT_AUTHORITY=reused-term", invariant: "I1",
			options: Options{Provider: "etcd"},
			run: func(l *Lab) {
				m := l.Form()
				m.Kill()
				l.Sleep(3 * l.validity())
			},
		},
		{
			name: "a master without a majority", env: "MUSTER_FAULT_AUTHORITY=minority-master", invariant: "I5",
			options: Options{Provider: "static"},
			run: func(l *Lab) {
				m := l.Form()
				l.Part(netlab.Drop, []*Host{m}, l.Others(m))
				l.Sleep(4 * time.Second)
			},
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			// What a broken program does may still go well by chance.
			const attempts = 3
			var broken []string
			for attempt := range attempts {
				v.options.Name, v.options.Seed = v.name, seed(t)+uint64(attempt)
				l := New(t, v.options)
				l.broken = true
				for _, h := range l.Hosts {
					h.env, h.args = []string{v.env}, v.args
				}
				v.run(l)
				report := l.Finish()
				for _, violation := range report.Violations {
					t.Log(violation)
				}
				if broken = report.Broken(); slices.Contains(broken, v.invariant) {
					return
				}
			}
			t.Errorf("%d runs of a broken program break %v at last, want %s among it", attempts, broken, v.invariant)
		})
	}
}
