package faults

import (
	"context"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/internal/testing/process"
)

// The attacks are worth something only if they would notice. Each variant breaks one
// rule that safety rests on, in the real program, and a run of it has to fail and to
// name the promise that is broken. With SOUND=1 the attacks meet the sound program, which
// has to keep it.
func TestBrokenVariants(t *testing.T) {
	alone(t)
	sound := os.Getenv("SOUND") != ""
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
			// Nobody is granted where the record is gone, while all ask again and again.
			name: "an acquire without an answer taken for a grant", env: "MUSTER_FAULT_RULE=phantom-grant", invariant: "I2",
			options: Options{Provider: "consul"},
			run: func(l *Lab) {
				l.Form()
				l.store.depose()
				l.NoMaster(l.Hosts)
				l.CutStore(netlab.Reject, l.Hosts...)
				l.Sleep(5 * time.Second)
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
			name: "a holder expired at once", env: "MUSTER_FAULT_RECORD=expired-at-once", invariant: "I2",
			options: Options{Provider: "consul"},
			run: func(l *Lab) {
				l.StartAll()
				l.Sleep(8 * time.Second)
			},
		},
		{
			name: "renewals no sign of life", env: "MUSTER_FAULT_RECORD=counted-by-term", invariant: "I2",
			options: Options{Provider: "consul"},
			run: func(l *Lab) {
				m := l.Form()
				l.Part(netlab.Drop, []*Host{m}, l.Others(m)) // or else they take its word for it
				l.Sleep(4 * l.validity())
			},
		},
		{
			name: "a grant extended by a read", env: "MUSTER_FAULT_RECORD=extended-by-read", invariant: "I2",
			options: Options{Provider: "consul"},
			run: func(l *Lab) {
				m := l.Form()
				l.Part(netlab.Drop, []*Host{m}, l.Others(m))
				l.Sleep(4 * l.validity())
			},
		},
		{
			name: "a holder counted from before the read", env: "MUSTER_FAULT_RECORD=counted-from-before-the-read", invariant: "I2",
			options: Options{Provider: "consul", TTL: 4 * time.Second, Proxied: true},
			run: func(l *Lab) {
				m := l.Form()
				l.Part(netlab.Drop, []*Host{m}, l.Others(m)) // so that they read
				l.HoldStore(3*time.Second, l.Others(m)...)
				l.Sleep(4 * time.Second)
				l.Renewed(m)
				m.Pause()
				l.HoldStore(0, l.Others(m)...) // what they have sent before that shows what was written since
				l.Master(l.Others(m), m)
			},
		},
		{
			name: "a renewal counted from its receipt", env: "MUSTER_FAULT_RECORD=counted-from-receipt", invariant: "I2",
			options: Options{Provider: "consul", TTL: 15 * time.Second, Proxied: true},
			run: func(l *Lab) {
				m := l.Form()
				l.Part(netlab.Drop, []*Host{m}, l.Others(m)) // so that they see each renewal at once
				l.DelayStore(1300*time.Millisecond, m)
				l.Renewed(m) // this one may have been answered in time
				l.Renewed(m)
				m.Pause() // before the next one is sent, for which a shorter TTL leaves no time
				l.Master(l.Others(m), m)
			},
		},
		{
			name: "a record that is gone has no holder", env: "MUSTER_FAULT_RECORD=absence-is-a-vacancy", invariant: "I2",
			options: Options{Provider: "consul", TTL: 15 * time.Second},
			run: func(l *Lab) {
				m := forgetMaster(l)
				for _, h := range l.Others(m) {
					h.Kill() // what they have learned of the master protects it as well
					h.Start()
				}
				l.eventually("the others know the cluster from the record", func(ctx context.Context) bool {
					return !slices.ContainsFunc(l.Others(m), func(h *Host) bool {
						v, err := h.view(ctx)
						return err != nil || v.ClusterID == ""
					})
				})
				l.store.depose()
				l.Sleep(8 * time.Second)
			},
		},
		{
			name: "a deleted record had no longer ttl than ours", env: "MUSTER_FAULT_RECORD=ceiling-ignored", invariant: "I2",
			options: Options{Provider: "consul", TTL: 15 * time.Second},
			run: func(l *Lab) {
				m := forgetMaster(l)
				for _, h := range l.Others(m) {
					h.Kill()
				}
				l.store.depose()
				l.ttl, l.expect = time.Second, 2
				for _, h := range l.Others(m) {
					h.LoseData()
					h.Start()
				}
				l.Sleep(8 * time.Second)
			},
		},
		{
			name: "a ttl out of bounds believed", env: "MUSTER_FAULT_RECORD=any-ttl-believed", invariant: "I2",
			options: Options{Provider: "consul", TTL: 15 * time.Second},
			run: func(l *Lab) {
				forgetMaster(l)
				l.store.edit(func(record []byte) []byte {
					return regexp.MustCompile(`"ttl_ns":[0-9]+`).ReplaceAll(record, []byte(`"ttl_ns":1`))
				})
				l.Sleep(8 * time.Second)
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
			// The answer to the grant is late, and what the others see of it is not.
			name: "who is recorded is named", env: "MUSTER_FAULT_RULE=named-by-the-record", invariant: "I12",
			options: Options{Provider: "etcd", Proxied: true},
			run: func(l *Lab) {
				l.Hosts[2].keys = func(config map[string]any) {
					m, _ := config["mastership"].(map[string]any)
					if m == nil {
						m = make(map[string]any)
					}
					m["eligible"] = false
					config["mastership"] = m
				}
				m := l.Form()
				heir := l.Hosts[0]
				if heir == m {
					heir = l.Hosts[1]
				}
				l.DelayStore(600*time.Millisecond, heir)
				m.Kill()
				l.Sleep(4 * l.validity())
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
		{
			name: "a claim after the run", env: "MUSTER_FAULT_WORK=claim-after-run", invariant: "I14",
			options: Options{Provider: "static"}, args: []string{"-restartable=false"},
			run: func(l *Lab) {
				l.Form()
				m := l.Hold(ended, ofSteps)
				m.Kill()
				m.release()
				l.Master(l.Others(m), m)
				l.Sleep(time.Second)
			},
		},
		{
			name: "a gate that opens by an event only", env: "MUSTER_FAULT_WORK=gate-by-event", invariant: "I14",
			options: Options{Provider: "static"}, args: []string{"-steps", "2", "-step", "1s"},
			run: func(l *Lab) {
				m := l.Form()
				l.eventually("the last gate is open somewhere", func(context.Context) bool {
					return slices.ContainsFunc(l.Hosts, func(h *Host) bool {
						return slices.ContainsFunc(l.notesOf(h), func(n checker.Note) bool { return n.Kind == checker.GateOpen && n.Version == 2 })
					})
				})
				late := l.Others(m)[0]
				late.Stop()
				late.Start()
				l.Well()
			},
		},
		{
			// The answer to the claim is so late that the mastership is over.
			name: "the deadline of a claim not watched", env: "MUSTER_FAULT_CLAIM=deadline-not-watched", invariant: "I14",
			options: Options{Provider: "static"},
			run: func(l *Lab) {
				l.Form()
				m := l.Hold(claimed, ofSteps)
				l.Part(netlab.Drop, []*Host{m}, l.Others(m))
				l.Master(l.Others(m), m)
				l.Sleep(2 * time.Second)
				m.release()
				l.Sleep(time.Second)
			},
		},
		{
			name: "a record not fenced by the term", env: "MUSTER_FAULT_CLAIM=not-fenced-by-the-term", invariant: "I14",
			options: Options{Provider: "static"}, args: []string{"-step", "4s", "-deaf"},
			run: func(l *Lab) {
				l.Form()
				m := l.Hold(running, ofSteps)
				m.release()
				m.Pause()
				next := l.Master(l.Others(m), m)
				l.eventually("the next master runs the step", func(context.Context) bool {
					return slices.ContainsFunc(l.notesOf(next), func(n checker.Note) bool { return n.Kind == checker.StepBegin })
				})
				m.Resume() // it has ended, or does soon
				l.Sleep(4 * time.Second)
			},
		},
		{
			name: "a member dialled by its address", env: "MUSTER_FAULT_CALL=dial-by-address", invariant: "I19",
			options: Options{Provider: "static"}, args: callsOften,
			run: func(l *Lab) {
				m := l.Form()
				l.Sleep(3500 * time.Millisecond) // until callers remember all
				h := l.Others(m)[0]
				h.Kill()
				h.Start()
				l.Well()
				l.Sleep(2 * time.Second)
			},
		},
		{
			name: "a call sent again that may have run", env: "MUSTER_FAULT_CALL=retry-after-send", invariant: "I20",
			options: Options{Provider: "static"}, args: callsOften,
			run: func(l *Lab) {
				m := l.Form()
				l.Sleep(time.Second)
				m.Kill()
				l.Master(l.Others(m), m)
				l.Sleep(time.Second)
			},
		},
		{
			name: "a deadline that nobody else is told", env: "MUSTER_FAULT_CALL=deadline-not-propagated", invariant: "I20",
			options: Options{Provider: "static"},
			run: func(l *Lab) {
				l.Form()
				l.Sleep(5 * time.Second)
			},
		},
		{
			// What was sent to it meanwhile is there when it goes on.
			name: "a master answers whose grant is over", env: "MUSTER_FAULT_CALL=grant-not-checked", invariant: "I20",
			options: Options{Provider: "static"}, args: callsOften,
			run: func(l *Lab) {
				m := l.Form()
				l.Sleep(time.Second)
				m.Pause()
				l.Master(l.Others(m), m)
				m.Resume()
				l.Well()
			},
		},
		{
			// Both that could kill what is left are killed, and the next one has another lock.
			name: "a second command beside an orphan", env: "MUSTER_FAULT_WORK=another-lock", invariant: "I2",
			options: Options{Provider: "static", Nodes: 1},
			run: func(l *Lab) {
				m := l.Form()
				w := l.Wrap(m, "parent", "--no-namespace")
				beat := l.nextCommand(checker.Note{})
				supervisor := l.childOf(w.process.ID())
				orphan := l.childOf(l.childOf(supervisor))
				_ = w.process.Pause()
				_ = process.KillID(supervisor)
				w.process.Kill()
				w.command = "command"
				if m.env != nil {
					w.args = append(w.args, "--lock-file", m.file(".other.lock"))
				}
				w.start()
				l.Sleep(4 * time.Second)
				if err := process.KillID(orphan); err != nil {
					l.t.Errorf("there is no orphan: %v", err)
				}
				l.nextCommand(beat) // the lock is free now
			},
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			// What a broken program does may still go well by chance.
			const attempts = 5
			var broken []string
			var l *Lab
			for attempt := range attempts {
				v.options.Name, v.options.Seed = v.name, seed(t)+uint64(attempt)
				l = New(t, v.options)
				l.broken = true
				for _, h := range l.Hosts {
					h.args = v.args
					if !sound {
						h.env = []string{v.env}
					}
				}
				v.run(l)
				report := l.Finish()
				for _, violation := range report.Violations {
					t.Log(violation)
				}
				broken = report.Broken()
				switch noticed := slices.Contains(broken, v.invariant); {
				case sound && noticed:
					t.Fatalf("the sound program breaks %s; what was recorded is kept in %s", v.invariant, l.keep())
				case sound, noticed:
					return
				}
			}
			t.Errorf("%d runs of a broken program break %v at last, want %s among it; what the last one recorded is kept in %s",
				attempts, broken, v.invariant, l.keep())
		})
	}
}

// callsOften has callers always wait for something.
var callsOften = []string{"-call-every", "25ms", "-call-takes", "600ms"}

// forgetMaster cuts the master off from everything, and returns it.
func forgetMaster(l *Lab) *Host {
	m := l.Form()
	l.Renewed(m)
	l.CutStore(netlab.Drop, m)
	l.Part(netlab.Drop, []*Host{m}, l.Others(m))
	return m
}
