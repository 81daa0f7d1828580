package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/netlab"
)

// faultEvery is how far apart the faults of a soak are.
const faultEvery = 20 * time.Second

// action is one fault of a soak. All that is random in it was chosen beforehand.
type action struct {
	at, lasts time.Duration
	kind      string
	order     []int // of the hosts
	share     float64
	mode      netlab.Mode
}

// soakFaults are the faults of a soak, and how often each comes.
var soakFaults = []struct {
	kind    string
	weight  int
	store   bool // only if there is one
	static  bool // only if there is none
	longest time.Duration
	begin   func(l *Lab, a action, hosts []*Host)
}{
	{kind: "node killed", weight: 3, longest: 8 * time.Second, begin: func(l *Lab, a action, hosts []*Host) { hosts[0].Kill() }},
	{kind: "node killed and back at once", weight: 2, longest: time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		hosts[0].Kill()
		hosts[0].Start()
	}},
	{kind: "node asked to leave", weight: 2, longest: 8 * time.Second, begin: func(l *Lab, a action, hosts []*Host) { hosts[0].Stop() }},
	{kind: "node paused", weight: 4, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) { hosts[0].Pause() }},
	{kind: "two nodes paused", weight: 1, longest: 8 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		hosts[0].Pause()
		hosts[1].Pause()
	}},
	{kind: "network split 2|3", weight: 3, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.Part(a.mode, hosts[:2], hosts[2:])
	}},
	{kind: "node isolated", weight: 2, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.Part(a.mode, hosts[:1], hosts[1:])
	}},
	{kind: "one way cut", weight: 3, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.Cut(hosts[0], hosts[1], a.mode)
		l.logf("%s is not heard by %s", hosts[0].Name(), hosts[1].Name())
	}},
	{kind: "node not heard by anybody", weight: 2, longest: 8 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		for _, h := range hosts[1:] {
			l.Cut(hosts[0], h, a.mode)
		}
		l.logf("%s is not heard", hosts[0].Name())
	}},
	{kind: "two nodes cut from each other", weight: 2, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.CutBoth(hosts[0], hosts[1], a.mode)
		l.logf("%s and %s are cut from each other", hosts[0].Name(), hosts[1].Name())
	}},
	{kind: "packets lost", weight: 2, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		percent := 5 + int(25*a.share)
		for _, h := range hosts[:2] {
			l.Net.Lose(h.Host, percent)
		}
		l.logf("%s and %s lose %d %% of all packets", hosts[0].Name(), hosts[1].Name(), percent)
	}},
	{kind: "packets late and twice", weight: 2, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		late := time.Duration(a.share * float64(100*time.Millisecond))
		l.Trouble(netlab.Trouble{Delay: late / 4, Jitter: late + time.Millisecond, Twice: 20}, hosts[:3]...)
	}},
	{kind: "node starved", weight: 2, longest: 8 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		hosts[0].Starve(a.lasts)
	}},
	{kind: "data lost", weight: 1, static: true, longest: 5 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		hosts[0].Kill()
		hosts[0].LoseData()
	}},
	{kind: "node cut from the store", weight: 4, store: true, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.CutStore(a.mode, hosts[0])
	}},
	{kind: "two nodes cut from the store", weight: 2, store: true, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.CutStore(a.mode, hosts[:2]...)
	}},
	{kind: "all cut from the store", weight: 1, store: true, longest: 3 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.CutStore(a.mode, hosts...)
	}},
	{kind: "answers of the store late", weight: 3, store: true, longest: 10 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.DelayStore(50*time.Millisecond+time.Duration(a.share*float64(time.Second)), hosts[:3]...)
	}},
	{kind: "leader of the store killed", weight: 2, store: true, longest: 5 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.store.kill(l.store.leader())
	}},
	{kind: "leader of the store paused", weight: 2, store: true, longest: 5 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.store.pause(l.store.leader())
	}},
	{kind: "store killed", weight: 1, store: true, longest: 2 * time.Second, begin: func(l *Lab, a action, hosts []*Host) {
		l.store.killAll()
	}},
}

// masterFaults are those of a soak that meets the master alone.
var masterFaults = []string{"node killed", "node killed and back at once", "node asked to leave", "node paused", "node isolated", "node cut from the store"}

// scheduleOfMaster chooses among masterFaults.
func scheduleOfMaster(random *rand.Rand, provider string, nodes int, duration time.Duration) (actions []action) {
	for _, a := range schedule(random, provider, nodes, duration) {
		for ok := false; !ok; {
			a.kind = masterFaults[random.IntN(len(masterFaults))]
			ok = a.kind != "node cut from the store" || provider != "static"
		}
		a.lasts = 200*time.Millisecond + time.Duration(random.Int64N(int64(8*time.Second)))
		if a.order[0] >= 0 {
			a.order = append([]int{-1}, a.order...)
		}
		actions = append(actions, a)
	}
	return actions
}

// schedule chooses the faults of a soak.
func schedule(random *rand.Rand, provider string, nodes int, duration time.Duration) (actions []action) {
	var choices []int
	for i, f := range soakFaults {
		if provider == "static" && f.store || provider != "static" && f.static {
			continue
		}
		for range f.weight {
			choices = append(choices, i)
		}
	}
	for slot := time.Duration(0); slot+faultEvery <= duration; slot += faultEvery {
		f := soakFaults[choices[random.IntN(len(choices))]]
		a := action{
			at:    slot + time.Duration(random.Int64N(int64(4*time.Second))),
			lasts: 200*time.Millisecond + time.Duration(random.Int64N(int64(f.longest))),
			kind:  f.kind, order: random.Perm(nodes), share: random.Float64(), mode: netlab.Drop,
		}
		if random.IntN(3) == 0 {
			a.mode = netlab.Reject
		}
		// Trouble likes masters: half of the faults meet the one of the moment, which
		// is at the place that -1 stands for.
		if random.IntN(2) == 0 {
			a.order = append([]int{-1}, a.order...)
		}
		actions = append(actions, a)
	}
	return actions
}

// hostsOf returns all hosts in the order of an action.
func (l *Lab) hostsOf(a action) (hosts []*Host) {
	for _, i := range a.order {
		h := (*Host)(nil)
		if i >= 0 {
			h = l.Hosts[i]
		} else {
			h = l.masterNow()
		}
		if h != nil && !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Soak lets a cluster of five nodes suffer a fault every 20 s, for so long, and then
// checks it. With ofMaster all faults meet the master, and are masterFaults.
func Soak(t testing.TB, provider string, seed uint64, duration time.Duration, ofMaster bool) checker.Report {
	o := Options{Name: "soak", Provider: provider, Seed: seed, Nodes: 5, Servers: 3, Proxied: provider != "static", Cabled: true, LogLevel: "info"}
	l := New(t, o)
	actions := schedule(l.Rand, provider, o.Nodes, duration)
	if ofMaster {
		actions = scheduleOfMaster(l.Rand, provider, o.Nodes, duration)
	}
	l.Form()
	l.watchStore()
	began := time.Now()
	for _, a := range actions {
		l.Sleep(time.Until(began.Add(a.at)))
		l.logf("fault: %s, for %v", a.kind, a.lasts.Round(time.Millisecond))
		l.inject(a.kind)
		healed := time.Now().Add(a.lasts)
		for _, f := range soakFaults {
			if f.kind == a.kind {
				f.begin(l, a, l.hostsOf(a))
			}
		}
		l.Sleep(time.Until(healed))
		l.Heal()
	}
	l.Sleep(time.Until(began.Add(duration)))
	report := l.Finish()
	var b strings.Builder
	fmt.Fprintf(&b, "soak of %v over %s, seed %d: %d faults, %d masterships, a master %.2f %% of the time, longest without %v, %d violations\n",
		duration, provider, seed, len(actions), report.Masterships, 100*report.Available, report.Gap.Round(time.Millisecond), len(report.Violations))
	fmt.Fprintf(&b, "of the time in which there could be one: a master %.2f %%, longest without %v; %d of %d writes refused for their term\n",
		100*report.Possible, report.PossibleGap.Round(time.Millisecond), report.Refused, report.Refused+report.Writes)
	fmt.Fprintf(&b, "%d runs of steps, %d of jobs, where there could be a master the longest time between two of one job %v\n", report.Steps, report.Fires, report.FireGap.Round(time.Millisecond))
	fmt.Fprintf(&b, "%d calls, an end at most %v after its deadline: %v\n", report.Calls, report.CallLate.Round(time.Millisecond), report.CallResults)
	if report.Stalled > 0 {
		fmt.Fprintf(&b, "the machine stood still for %v, which is in no figure\n", report.Stalled.Round(time.Millisecond))
	}
	for _, kind := range slices.Sorted(maps.Keys(l.counts)) {
		fmt.Fprintf(&b, "%5d  %s\n", l.counts[kind], kind)
	}
	t.Log(b.String())
	return report
}
