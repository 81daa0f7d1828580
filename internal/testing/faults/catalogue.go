package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/node/httpapi"
)

// Case is one fault of the catalogue.
type Case struct {
	// Name is what CASE selects it by.
	Name string
	// Faults are its numbers in docs/reliability.md.
	Faults []int
	// Providers are those that it concerns. Nil: all.
	Providers []string
	// Short says that it is part of the short catalogue, with these providers.
	Short []string
	// Options are what it wants of the lab.
	Options Options
	// Masterships is how many there are in the end, where that is certain. 0: any.
	Masterships int
	// Run does it. Healing, and the check of all that was recorded, come after it.
	Run func(l *Lab)
	// LateMaster and LateRegistry are how much longer it may take over Consul until there
	// is a master and until the registry is right, and the comment at the case says why.
	LateMaster, LateRegistry time.Duration
	// ClocksBroken says that clocks run at rates outside of what is assumed, and Revoked
	// that an operator takes grants away.
	ClocksBroken, Revoked bool
	// Hearsay is how long a node may name what a member that lies has told it.
	Hearsay time.Duration
}

// withStore are the providers that stand on servers.
var withStore = []string{"etcd", "consul"}

// forgotten is how long the authority of Consul waits where it may have forgotten a grant,
// and a little.
const forgotten = 35 * time.Second

// everywhere is all providers.
var everywhere = []string{"static", "etcd", "consul"}

// validity is how long a grant lasts.
func (l *Lab) validity() time.Duration {
	if l.ttl == 0 {
		return 900 * time.Millisecond
	}
	return l.ttl
}

// Catalogue is all cases.
var Catalogue = append(casesOfOnce, []Case{
	{Name: "master-killed", Faults: []int{1}, Short: everywhere, Run: func(l *Lab) {
		m := l.Form()
		l.Sleep(l.UpTo(0, time.Second))
		m.Kill()
		l.Master(l.Others(m), m)
	}},
	// A member announces whatever may do harm, ten times a second. The master stays, and the
	// others name it.
	{Name: "hostile-gossip", Faults: []int{51}, Short: everywhere, Masterships: 1, Hearsay: 3 * time.Second, Run: func(l *Lab) {
		liar := l.Hosts[len(l.Hosts)-1]
		liar.env = append(liar.env, "MUSTER_FAULT_GOSSIP=hostile")
		liar.keys = func(config map[string]any) {
			m, _ := config["mastership"].(map[string]any)
			if m == nil {
				m = make(map[string]any)
			}
			m["eligible"] = false
			config["mastership"] = m
		}
		m := l.Form()
		l.Sleep(10*time.Second + 2*l.validity())
		if now := l.Well(); now != m {
			l.t.Errorf("%s is master after lies, want %s", now.Name(), m.Name())
		}
		l.eventually("the master counts what it does not believe", func(ctx context.Context) bool {
			var s httpapi.Status
			if m.get(ctx, httpapi.PathStatus, &s) != nil || s.Mastership.Doubted == nil {
				return false
			}
			d := s.Mastership.Doubted
			return d.AbsurdTerms > 0 && d.ForeignClusters > 0 && d.Disputes > 0
		})
	}},
	{Name: "master-leaves", Faults: []int{2}, Run: func(l *Lab) {
		m := l.Form()
		m.Stop()
		l.Master(l.Others(m), m)
	}},
	{Name: "master-paused-long", Faults: []int{3, 22}, Short: everywhere, Run: func(l *Lab) {
		m := l.Form()
		m.Pause()
		l.Master(l.Others(m), m)
		l.Sleep(3 * l.validity())
		m.Resume()
	}},
	{Name: "master-paused-for-about-the-ttl", Faults: []int{3}, Run: func(l *Lab) {
		l.Form()
		for range 5 {
			m := l.Well()
			m.Pause()
			l.Sleep(time.Duration(float64(l.validity()) * (0.8 + 0.4*l.Rand.Float64())))
			m.Resume()
			l.Sleep(l.validity())
		}
	}},
	{Name: "master-paused-briefly", Faults: []int{4}, Masterships: 1, Options: Options{TTL: 10 * time.Second}, Run: func(l *Lab) {
		m := l.Form()
		for range 3 {
			m.Pause()
			// A static list looks for another master by heartbeats, which a long TTL
			// does not stretch without end.
			l.Sleep(l.UpTo(100*time.Millisecond, 300*time.Millisecond))
			m.Resume()
			l.Sleep(time.Second)
		}
	}},
	{Name: "master-cut-from-store", Faults: []int{5}, Providers: withStore, Short: withStore, Run: func(l *Lab) {
		m := l.Form()
		l.CutStore(netlab.Drop, m)
		l.Master(l.Others(m), m)
		l.Sleep(l.validity())
	}},
	{Name: "master-rejected-by-store", Faults: []int{5}, Providers: withStore, Run: func(l *Lab) {
		m := l.Form()
		l.CutStore(netlab.Reject, m)
		l.Master(l.Others(m), m)
	}},
	{Name: "master-isolated", Faults: []int{5}, Providers: []string{"static"}, Short: []string{"static"}, Run: func(l *Lab) {
		m := l.Form()
		l.Part(netlab.Drop, []*Host{m}, l.Others(m))
		l.Master(l.Others(m), m)
		l.Sleep(3 * l.validity())
	}},
	{Name: "all-cut-from-store", Faults: []int{6}, Providers: withStore, Run: func(l *Lab) {
		l.Form()
		l.CutStore(netlab.Drop, l.Hosts...)
		l.NoMaster(l.Hosts)
		l.Sleep(l.UpTo(0, 20*time.Second))
	}},
	{Name: "store-leader-killed", Faults: []int{7}, Providers: withStore, Options: Options{Servers: 3}, Run: func(l *Lab) {
		l.Form()
		l.store.kill(l.store.leader())
		l.Sleep(5 * time.Second)
	}},
	{Name: "store-leader-paused", Faults: []int{7}, Providers: withStore, Options: Options{Servers: 3}, Run: func(l *Lab) {
		l.Form()
		l.store.pause(l.store.leader())
		l.Sleep(5 * time.Second)
	}},
	{Name: "store-leader-cut-from-its-peers", Faults: []int{7}, Providers: withStore, Options: Options{Servers: 3}, Run: func(l *Lab) {
		l.Form()
		leader := l.store.leader()
		for i, h := range l.store.places {
			if i != leader {
				l.Net.Part(netlab.Drop, []string{h.IP()}, []string{l.store.places[leader].IP()})
			}
		}
		l.logf("server %d, which leads, is cut from the others", leader+1)
		l.Sleep(8 * time.Second)
	}},
	// Over Consul nobody is granted for 30 s where the record of mastership is gone or went
	// back: that is the longest mastership.ttl, and somebody may have a grant that is
	// forgotten.
	{Name: "store-wiped", Faults: []int{8}, Providers: withStore, Short: withStore, LateMaster: forgotten, Run: func(l *Lab) {
		l.Form()
		l.store.wipe()
		// It has to be away for as long as a grant is valid: see node/mastership.
		l.NoMaster(l.Hosts)
		l.Sleep(l.validity())
	}},
	// The agent of Consul compares what was restored with what it knows after one to two
	// minutes (Interval and stagger in agent/ae of Consul), and until then services of the
	// past are listed.
	{Name: "store-restored", Faults: []int{9}, Providers: withStore, LateMaster: forgotten, LateRegistry: 2 * time.Minute, Run: func(l *Lab) {
		l.Form()
		restore := l.store.backup()
		for range 2 {
			m := l.Well()
			m.Stop()
			l.Master(l.Others(m), m)
			m.Start()
		}
		l.Well()
		l.CutStore(netlab.Drop, l.Hosts...)
		l.NoMaster(l.Hosts)
		l.Sleep(l.validity())
		restore()
		l.logf("the store is what it was two terms ago")
	}},
	{Name: "store-restarted", Faults: []int{7, 11}, Providers: withStore, Run: func(l *Lab) {
		l.Form()
		for range 2 {
			l.store.kill(0)
			l.Sleep(l.UpTo(0, l.validity()))
			l.store.restore()
			l.Well()
		}
	}},
	{Name: "mastership-taken-away", Faults: []int{12}, Providers: withStore, Revoked: true, LateMaster: forgotten, Run: func(l *Lab) {
		l.Form()
		for range 3 {
			l.store.depose()
			l.Sleep(l.UpTo(0, l.validity()))
			l.Well()
		}
	}},
	{Name: "record-edited", Faults: []int{12}, Providers: []string{"consul"}, Run: func(l *Lab) {
		l.Form()
		restore := l.store.edit(func([]byte) []byte { return []byte("by hand") })
		l.NoMaster(l.Hosts)
		l.Sleep(l.validity())
		restore()
		l.Well()
	}},
	{Name: "split-2-3", Faults: []int{14, 19}, Options: Options{Nodes: 5}, Short: []string{"static"}, Run: func(l *Lab) {
		m := l.Form()
		others := l.Others(m)
		l.Part(netlab.Drop, append([]*Host{m}, others[0]), others[1:])
		if !l.store.has() {
			l.Master(others[1:], m)
			l.Sleep(2 * time.Second)
			return
		}
		// The store is seen by all: the master of the minority gives up once it has
		// missed the majority for long enough.
		l.Master(others[1:], m, others[0])
	}},
	{Name: "split-2-3-reset", Faults: []int{14}, Options: Options{Nodes: 5}, Run: func(l *Lab) {
		m := l.Form()
		others := l.Others(m)
		l.Part(netlab.Reject, append([]*Host{m}, others[0]), others[1:])
		l.Sleep(12 * time.Second)
	}},
	{Name: "one-way", Faults: []int{15}, Short: everywhere, Run: func(l *Lab) {
		m := l.Form()
		other := l.Any(l.Others(m))
		l.Cut(m, other, netlab.Drop)
		l.logf("%s, the master, is not heard by %s", m.Name(), other.Name())
		l.Sleep(5 * time.Second)
		l.HealNet()
		l.Cut(other, m, netlab.Drop)
		l.logf("%s is not heard by %s", other.Name(), m.Name())
		l.Sleep(5 * time.Second)
	}},
	{Name: "master-not-heard", Faults: []int{15}, Run: func(l *Lab) {
		m := l.Form()
		for _, other := range l.Others(m) {
			l.Cut(m, other, netlab.Drop)
		}
		l.logf("%s, the master, is not heard", m.Name())
		l.Sleep(8 * time.Second)
	}},
	{Name: "master-hears-nobody", Faults: []int{15}, Run: func(l *Lab) {
		m := l.Form()
		for _, other := range l.Others(m) {
			l.Cut(other, m, netlab.Drop)
		}
		l.logf("%s, the master, hears nobody", m.Name())
		l.Sleep(8 * time.Second)
	}},
	{Name: "two-cut-both-see-the-third", Faults: []int{16}, Short: []string{"static"}, Run: func(l *Lab) {
		m := l.Form()
		others := l.Others(m)
		l.CutBoth(m, others[0], netlab.Drop)
		l.logf("%s and %s are cut from each other", m.Name(), others[0].Name())
		l.Sleep(10 * time.Second)
	}},
	{Name: "ring", Faults: []int{17}, Options: Options{Nodes: 5}, Run: func(l *Lab) {
		l.Form()
		ring := l.Shuffled()
		for i, a := range ring {
			for j, b := range ring {
				if d := (j - i + len(ring)) % len(ring); d == 2 || d == 3 {
					l.Cut(a, b, netlab.Drop)
				}
			}
		}
		l.logf("a ring: %s", names(ring))
		l.Sleep(12 * time.Second)
	}},
	{Name: "split-1-1-1", Faults: []int{18}, Short: []string{"static"}, Run: func(l *Lab) {
		l.Form()
		l.Part(netlab.Drop, l.Hosts[:1], l.Hosts[1:2], l.Hosts[2:])
		if !l.store.has() {
			l.NoMaster(l.Hosts)
		}
		l.Sleep(l.UpTo(2*time.Second, 5*time.Second))
	}},
	{Name: "clock-offsets", Faults: []int{20}, Run: func(l *Lab) {
		for i, h := range l.Hosts {
			h.skew = skew{offset: []time.Duration{time.Hour, 0, 365 * 24 * time.Hour}[i], rate: 1, epoch: l.began}
		}
		m := l.Form()
		m.Kill()
		l.Master(l.Others(m), m)
	}},
	{Name: "clock-rates-within-bounds", Faults: []int{20, 21}, Short: []string{"etcd"}, Run: func(l *Lab) {
		for i, h := range l.Hosts {
			h.skew = skew{rate: []float64{0.99, 1, 1.01}[i], epoch: l.began}
		}
		l.Form()
		for range 2 {
			m := l.Well()
			m.Pause()
			l.Master(l.Others(m), m)
			m.Resume()
		}
	}},
	{Name: "clock-rates-out-of-bounds", Faults: []int{21}, ClocksBroken: true, Run: func(l *Lab) {
		for i, h := range l.Hosts {
			h.skew = skew{rate: []float64{0.9, 1.1, 1}[i], epoch: l.began}
		}
		l.Form()
		for range 2 {
			m := l.Well()
			if l.store.has() {
				l.CutStore(netlab.Drop, m)
			} else {
				l.Part(netlab.Drop, []*Host{m}, l.Others(m))
			}
			l.Master(l.Others(m), m)
			l.HealNet()
		}
	}},
	{Name: "all-start-at-once", Faults: []int{23}, Options: Options{Nodes: 5}, Run: func(l *Lab) {
		l.Form()
	}},
	{Name: "one-starts-late", Faults: []int{24}, Masterships: 1, Options: Options{Nodes: 5, TTL: 5 * time.Second}, Run: func(l *Lab) {
		l.expect = 4 // or else they wait for the fifth
		for _, h := range l.Hosts[1:] {
			h.Start()
		}
		l.expectFewer(4)
		l.Hosts[0].Start() // the one of the lowest address
		l.Well()
	}},
	{Name: "start-without-store", Faults: []int{25}, Providers: withStore, Run: func(l *Lab) {
		l.store.killAll()
		l.StartAll()
		l.Sleep(l.UpTo(3*time.Second, 8*time.Second))
		for _, h := range l.Hosts {
			if v, err := h.view(context.Background()); err != nil || v.ClusterID != "" {
				l.t.Errorf("%s is in cluster %q without a store (%v)", h.Name(), v.ClusterID, err)
			}
		}
	}},
	{Name: "rolling-restart", Faults: []int{26}, Short: []string{"static"}, Run: func(l *Lab) {
		l.Form()
		for _, h := range l.Shuffled() {
			h.Stop()
			h.Start()
			l.Well()
		}
	}},
	{Name: "killed-and-back-at-once", Faults: []int{27}, Run: func(l *Lab) {
		l.Form()
		for range 3 {
			h := l.Any(l.Hosts)
			h.Kill()
			l.Sleep(l.UpTo(0, 200*time.Millisecond))
			h.Start()
			l.Well()
		}
	}},
	{Name: "back-at-another-address", Faults: []int{28}, Providers: withStore, Run: func(l *Lab) {
		m := l.Form()
		m.Kill()
		l.retire(m)
		l.AddHost("h9").NodeID = m.NodeID
		l.StartAll()
		l.Well()
	}},
	{Name: "twice-the-same-node", Faults: []int{29}, Providers: withStore, Run: func(l *Lab) {
		m := l.Form()
		l.AddHost("h9").NodeID = m.NodeID
		l.StartAll()
		l.eventually("the earlier one has left", func(context.Context) bool { return !m.Running() })
		l.retire(m)
		l.Well()
	}},
	{Name: "udp-blocked", Faults: []int{34}, Run: func(l *Lab) {
		if l.store.provider == "consul" {
			l.logf("between nodes only: the servers of consul gossip over UDP, with themselves")
		}
		l.Net.BlockUDP()
		m := l.Form()
		m.Kill()
		l.Master(l.Others(m), m)
	}},
	{Name: "packets-lost", Faults: []int{35}, Short: []string{"static"}, Run: func(l *Lab) {
		l.Form()
		for _, h := range l.Hosts {
			l.Net.Lose(h.Host, 30)
		}
		l.logf("30 %% of all packets are lost")
		l.Sleep(15 * time.Second)
	}},
	// Each packet goes over the cables of two hosts, or of one to the store.
	{Name: "packets-late", Faults: []int{35}, Options: Options{Cabled: true}, Run: func(l *Lab) {
		l.Form()
		l.Trouble(netlab.Trouble{Jitter: 100 * time.Millisecond}, l.Hosts...)
		l.Sleep(15 * time.Second)
	}},
	{Name: "packets-late-for-a-longer-ttl", Faults: []int{35}, Masterships: 1, Options: Options{Cabled: true, TTL: 5 * time.Second}, Run: func(l *Lab) {
		l.Form()
		l.Trouble(netlab.Trouble{Jitter: 100 * time.Millisecond}, l.Hosts...)
		l.Sleep(15 * time.Second)
	}},
	{Name: "packets-twice", Faults: []int{35}, Options: Options{Cabled: true}, Run: func(l *Lab) {
		m := l.Form()
		l.Trouble(netlab.Trouble{Jitter: 30 * time.Millisecond, Twice: 50}, l.Hosts...)
		l.Sleep(5 * time.Second)
		m.Kill()
		l.Master(l.Others(m), m)
	}},
	{Name: "bad-network", Faults: []int{35}, Options: Options{Cabled: true}, Short: []string{"static"}, Run: func(l *Lab) {
		l.Form()
		l.Trouble(netlab.Trouble{Delay: 20 * time.Millisecond, Jitter: 80 * time.Millisecond, Twice: 20}, l.Hosts...)
		for _, h := range l.Hosts {
			l.Net.Lose(h.Host, 30)
		}
		l.logf("30 %% of all packets are lost")
		l.Sleep(15 * time.Second)
	}},
	{Name: "master-starved", Faults: []int{35}, Run: func(l *Lab) {
		l.Form().Starve(10 * time.Second)
	}},
	{Name: "late-answers-of-the-store", Faults: []int{35, 13}, Providers: withStore, Options: Options{Proxied: true}, Run: func(l *Lab) {
		l.Form()
		l.DelayStore(l.UpTo(50*time.Millisecond, 300*time.Millisecond), l.Hosts...)
		l.Sleep(5 * time.Second)
		l.DelayStore(l.UpTo(500*time.Millisecond, 2*time.Second), l.Hosts...)
		l.Sleep(8 * time.Second)
	}},
	{Name: "another-cluster-at-the-same-addresses", Faults: []int{46}, Providers: []string{"static"}, Masterships: 1, Options: Options{TTL: 5 * time.Second}, Run: func(l *Lab) {
		l.Form()
		stranger := l.AddHost("h9")
		stranger.keys = func(config map[string]any) { config["cluster"] = "elsewhere" }
		stranger.Start()
		l.Sleep(5 * time.Second)
		v, err := stranger.view(context.Background())
		if err != nil || len(v.Members) > 1 || v.ClusterID != "" {
			l.t.Errorf("the stranger sees %d members of cluster %q, %v", len(v.Members), v.ClusterID, err)
		}
		stranger.Kill()
		l.forget(stranger)
	}},
	{Name: "another-version-of-the-wire", Faults: []int{47}, Run: func(l *Lab) {
		l.Form()
		// One node after another comes back as a later version that does not speak ours.
		for i, h := range l.Shuffled() {
			h.Stop()
			h.env = []string{"MUSTER_FAULT_WIRE=3"}
			h.Start()
			later := i + 1
			apart := func(ctx context.Context) bool {
				for _, other := range l.Hosts {
					same := later
					if other.env == nil {
						same = len(l.Hosts) - later
					}
					if v, err := other.view(ctx); err != nil || len(v.Members) != same {
						return false
					}
				}
				return true
			}
			l.eventually("each sees those of its version and nobody else", apart)
			l.Sleep(l.UpTo(2*time.Second, 4*time.Second))
			if !apart(context.Background()) {
				l.t.Errorf("%d nodes are of a later version, and not each sees those of its own and nobody else; %s", later, l.describe())
			}
		}
	}},
	{Name: "data-lost", Faults: []int{48}, Providers: []string{"static"}, Short: []string{"static"}, Run: func(l *Lab) {
		l.Form()
		for range 2 {
			h := l.Any(l.Hosts)
			h.Kill()
			h.LoseData()
			h.Start()
			l.votes(h) // or else a majority is without its state, which does not end
		}
	}},
	{Name: "majority-loses-data", Faults: []int{48}, Providers: []string{"static"}, Run: func(l *Lab) {
		keeper := l.Form()
		for _, h := range l.Others(keeper) {
			h.Kill()
			h.LoseData()
		}
		for _, h := range l.Others(keeper) {
			h.Start()
		}
		for _, h := range l.Hosts {
			l.eventually(h.Name()+" says what is lost and how to fix it", func(ctx context.Context) bool {
				v, err := h.view(ctx)
				return err == nil && strings.Contains(v.Warning, "stop "+keeper.Addr()+", remove its node.data_dir")
			})
		}
		l.NoMaster(l.Hosts)
		// As it says. The others have learned of the term from the one that kept its state.
		keeper.Stop()
		keeper.LoseData()
		l.forgets()
		keeper.Start()
	}},
	{Name: "wiped-majority-starts-first", Faults: []int{48}, Providers: []string{"static"}, Short: []string{"static"}, Run: func(l *Lab) {
		keeper := l.Form()
		var before httpapi.View
		l.eventually("the cluster is known", func(ctx context.Context) bool {
			var err error
			before, err = keeper.view(ctx)
			return err == nil && before.ClusterID != ""
		})
		for _, h := range l.Hosts {
			h.Kill()
		}
		// They are a majority, and found nothing while the one that remembers is away.
		for _, h := range l.Others(keeper) {
			h.LoseData()
			h.Start()
		}
		for _, h := range l.Others(keeper) {
			l.eventually(h.Name()+" says which voters it waits for", func(ctx context.Context) bool {
				v, err := h.view(ctx)
				return err == nil && strings.Contains(v.Warning, "not yet for "+keeper.Addr())
			})
		}
		l.NoMaster(l.Others(keeper))
		keeper.Start()
		for _, h := range l.Hosts {
			l.eventually(h.Name()+" says what is lost, and knows the cluster and its term", func(ctx context.Context) bool {
				v, err := h.view(ctx)
				return err == nil && strings.Contains(v.Warning, "stop "+keeper.Addr()+", remove its node.data_dir") &&
					v.ClusterID == before.ClusterID && v.Term >= before.Term
			})
		}
		l.NoMaster(l.Hosts)
		keeper.Stop()
		keeper.LoseData()
		l.forgets()
		keeper.Start()
	}},
	{Name: "disk-full", Faults: []int{48}, Providers: []string{"static"}, Run: func(l *Lab) {
		for _, h := range l.Hosts {
			l.smallDisk(h)
		}
		m := l.Form()
		l.fillDisk(m)
		m.Kill() // what it needs to write to take part again does not fit
		l.Master(l.Others(m), m)
		m.Start()
		l.Sleep(5 * time.Second)
		l.clearDisk(m)
	}},
	{Name: "all-disks-full", Faults: []int{48}, Providers: []string{"static"}, Run: func(l *Lab) {
		for _, h := range l.Hosts {
			l.smallDisk(h)
		}
		m := l.Form()
		for _, h := range l.Hosts {
			l.fillDisk(h)
		}
		m.Kill()
		l.Sleep(5 * time.Second)
		for _, h := range l.Hosts {
			l.clearDisk(h)
		}
	}},
	// Each fault raises alarms of its own, and each has to be over afterwards: see
	// Lab.checkAlarms, which all cases end with.
	{Name: "alarms-are-over", Faults: []int{5, 14, 52}, Short: everywhere, Run: func(l *Lab) {
		m := l.Form()
		others := l.Others(m)
		if l.store.has() {
			l.store.pauseAll()
			l.NoMaster(l.Hosts)
			l.store.restore()
			l.Well()
		}
		l.Part(netlab.Drop, []*Host{m}, others)
		l.Sleep(8 * time.Second)
		l.HealNet()
		l.Well()
		l.Any(others).Kill()
		l.Sleep(5 * time.Second)
		for _, h := range l.Hosts {
			alarms, err := h.openAlarms()
			if h.Running() && (err != nil || len(alarms) == 0) {
				l.t.Errorf("%s has no warning of the member that was killed (%v)", h.Name(), err)
			}
		}
	}},
	{Name: "voters-added", Faults: []int{49}, Providers: []string{"static"}, Options: Options{Nodes: 5}, Run: votersAdded},
}...)

// expectFewer waits until so many nodes are one cluster although more are expected.
func (l *Lab) expectFewer(n int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%d nodes are a cluster", n), func(ctx context.Context) bool {
		return len(l.running()) == n && l.agreed(ctx, l.running(), true) != nil
	})
}

// votes waits until a voter that came without its state has been taken in by the
// others, and all is well.
func (l *Lab) votes(h *Host) {
	l.t.Helper()
	var since time.Time
	l.eventually(h.Name()+" votes again", func(ctx context.Context) bool {
		v, err := h.view(ctx)
		if err != nil || v.Warning != "" || l.agreed(ctx, l.running(), true) == nil {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) > 3*time.Second // it knows by then what it waits for
	})
	l.logf("%s votes again", h.Name())
}

// retire has a host never start again.
func (l *Lab) retire(h *Host) {
	l.Hosts = slices.DeleteFunc(l.Hosts, func(o *Host) bool { return o == h })
	l.retired = append(l.retired, h)
}

// forget also keeps what a host recorded from the checker: it is of another cluster.
func (l *Lab) forget(h *Host) {
	l.Hosts = slices.DeleteFunc(l.Hosts, func(o *Host) bool { return o == h })
}

// smallDisk gives a host a data directory on a disk of its own, of 8 MB.
func (l *Lab) smallDisk(h *Host) {
	l.t.Helper()
	if err := os.MkdirAll(h.dataDir(), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := mountSmall(h.dataDir()); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { unmountSmall(h.dataDir()) })
}

// fillDisk leaves no room on a host's disk.
func (l *Lab) fillDisk(h *Host) {
	l.t.Helper()
	l.logf("the disk of %s is full", h.Name())
	f, err := os.Create(filepath.Join(h.dataDir(), "filler"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		chunk := make([]byte, size)
		for {
			if _, err = f.Write(chunk); err != nil {
				break
			}
		}
	}
	if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		l.t.Fatalf("fill the disk of %s: %v", h.Name(), err)
	}
}

func (l *Lab) clearDisk(h *Host) {
	l.t.Helper()
	l.logf("the disk of %s has room again", h.Name())
	if err := os.Remove(filepath.Join(h.dataDir(), "filler")); err != nil {
		l.t.Fatal(err)
	}
}

// votersAdded has the list of voters grow from three to five, on one node after
// another, while the master is attacked.
func votersAdded(l *Lab) {
	list := func(h *Host) string { return h.file(".peers") }
	write := func(h *Host, n int) {
		text := strings.Join(l.voters[:n], "\n") + "\n"
		if err := os.WriteFile(list(h)+".new", []byte(text), 0o600); err != nil {
			l.t.Fatal(err)
		}
		if err := os.Rename(list(h)+".new", list(h)); err != nil {
			l.t.Fatal(err)
		}
		l.logf("%s has a list of %d voters", h.Name(), n)
	}
	for i, h := range l.Hosts {
		h.keys = func(config map[string]any) {
			config["provider"] = map[string]any{"static": map[string]any{"file": list(h), "refresh": "1s"}}
			delete(config, "bootstrap")
		}
		if i < 3 {
			write(h, 3)
		} else {
			write(h, 5)
		}
	}
	l.bounds.Isolation = 0 // whose majority counts changes on the way
	for _, h := range l.Hosts[:3] {
		h.Start()
	}
	l.expectFewer(3)
	for _, h := range l.Hosts[3:] {
		h.Start()
	}
	for _, h := range l.Hosts[:3] {
		write(h, 5)
		l.Sleep(l.UpTo(500*time.Millisecond, 2*time.Second))
		if m := l.masterNow(); m != nil {
			m.Pause()
			l.Sleep(2 * l.validity())
			m.Resume()
		}
	}
	l.Well()
	l.eventually("all five vote", func(ctx context.Context) bool {
		var s httpapi.Status
		return l.Hosts[4].get(ctx, httpapi.PathStatus, &s) == nil && s.Ready
	})
}
