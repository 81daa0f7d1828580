package mastership

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// Whatever the authority and gossip say, in any order, as long as holders are honest: the
// named term never falls; nobody is named who has not announced itself, whose end is known,
// that the authority shows no longer or that is gone, nor oneself.
func TestKnownMasterIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			k       = known{announced: true}
			now     = clock.Instant(time.Hour)
			named   driver.Term
			granted driver.Term // the last one
			active  = map[driver.Term]bool{}
			ended   = map[driver.Term]clock.Instant{} // when the end was heard
			sent    = map[driver.Term]uint64{}
			last    = map[driver.Term]clock.Instant{} // when it last announced itself
			gone    = map[string]bool{}
			over    = map[driver.Term]bool{} // the holder has ended it
			seen    driver.Mastership
			failing = true
		)
		holder := func(term driver.Term) driver.Holder {
			id := fmt.Sprintf("i%d", term) // never used again
			return driver.Holder{NodeID: id, InstanceID: id}
		}
		const validFor = 5 * time.Second
		t.Repeat(map[string]func(*rapid.T){
			"grant": func(t *rapid.T) { // of the next term; the one before is over
				if granted < 12 {
					over[granted] = true
					granted++
				}
			},
			"observe": func(t *rapid.T) {
				// The record lags behind, but does not go back.
				seen = driver.Mastership{Term: driver.Term(rapid.Uint64Range(uint64(seen.Term), uint64(granted)).Draw(t, "t"))}
				if rapid.Bool().Draw(t, "held") && seen.Term > 0 && !over[seen.Term] {
					h := holder(seen.Term)
					seen.Holder = &h
				}
				failing = false
				k.observe(now, seen)
			},
			"observation fails": func(t *rapid.T) {
				failing = true
				k.observeFailed(now)
			},
			"announce": func(t *rapid.T) {
				if granted == 0 || over[granted] {
					return
				}
				active[granted] = true
				sent[granted]++
				last[granted] = now
				delete(gone, holder(granted).InstanceID)
				k.learn(now, Announcement{Term: granted, Holder: holder(granted), Active: true, Seq: sent[granted], ValidFor: validFor})
			},
			"repeat": func(t *rapid.T) { // an old one comes late
				tm := driver.Term(rapid.Uint64Range(0, uint64(granted)).Draw(t, "t"))
				if at, ok := last[tm]; ok && now < at.Add(outranksFor) && now < ended[tm].Add(outranksFor) == (ended[tm] != 0) {
					k.learn(now, Announcement{Term: tm, Holder: holder(tm), Active: true, Seq: 1, ValidFor: at.Add(validFor).Sub(now)})
				}
			},
			"end": func(t *rapid.T) {
				if !active[granted] || over[granted] {
					return
				}
				over[granted] = true
				sent[granted]++
				ended[granted] = now
				delete(gone, holder(granted).InstanceID)
				k.learn(now, Announcement{Term: granted, Holder: holder(granted), Seq: sent[granted]})
			},
			"term alone": func(t *rapid.T) { k.learn(now, Announcement{Term: granted + 1}) },
			"gone": func(t *rapid.T) {
				if h, _ := k.master(now, "i3"); h != nil {
					gone[h.InstanceID] = true
					k.memberGone(now, h.InstanceID)
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 20000).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				h, tm := k.master(now, "i3")
				if h == nil {
					if tm != 0 {
						t.Fatalf("nobody in term %d", tm)
					}
					return
				}
				if tm < named {
					t.Fatalf("term %d named after %d", tm, named)
				}
				named = tm
				if holder(tm).InstanceID != h.InstanceID {
					t.Fatalf("%s named in term %d of %s", h.InstanceID, tm, holder(tm).InstanceID)
				}
				if !active[tm] {
					t.Fatalf("%s named, which has not announced that it is master", h.InstanceID)
				}
				if ended[tm] != 0 {
					t.Fatalf("term %d named, whose end was heard", tm)
				}
				if seen.Term > tm || seen.Term == tm && seen.Holder == nil {
					t.Fatalf("term %d named, though the authority shows term %d of %v", tm, seen.Term, seen.Holder)
				}
				if h.InstanceID == "i3" {
					t.Fatal("named itself")
				}
				if gone[h.InstanceID] {
					t.Fatalf("%s named, which is gone", h.InstanceID)
				}
				if until := k.counts(h, tm); until > last[tm].Add(validFor) {
					t.Fatalf("%s counts until %v, and has announced itself until %v", h.InstanceID, until, last[tm].Add(validFor))
				}
				byAuthority := seen.Term == tm && !failing
				if byGossip := now < last[tm].Add(validFor); !byAuthority && !byGossip {
					t.Fatalf("term %d named by nobody", tm)
				}
			},
		})
	})
}

// Whatever is forged, and however often: the holder that the authority records is named
// while it announces itself, and nobody else is for long.
func TestForgedAnnouncementsHideNoMaster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := known{announced: true}
		now := clock.Instant(time.Hour)
		term := driver.Term(5)
		master := driver.Holder{NodeID: "m", InstanceID: "m"}
		forged := rapid.Custom(func(t *rapid.T) Announcement {
			id := rapid.SampledFrom([]string{"m", "x", "y"}).Draw(t, "id")
			return Announcement{
				Term:     driver.Term(rapid.SampledFrom([]uint64{1, 4, 5, 6, 7, 1 << 32}).Draw(t, "term")),
				Holder:   driver.Holder{NodeID: id, InstanceID: id},
				Active:   rapid.Bool().Draw(t, "active"),
				Seq:      rapid.SampledFrom([]uint64{0, 1, 50, 1 << 63, math.MaxUint64}).Draw(t, "seq"),
				ValidFor: rapid.SampledFrom([]time.Duration{0, time.Second, maxAnnouncedValidity}).Draw(t, "valid"),
			}
		})
		k.observe(now, driver.Mastership{Term: term, Holder: &master})
		var wrong, hidden time.Duration
		var gone clock.Instant
		for seq := uint64(1); seq < 60; seq++ {
			for _, a := range rapid.SliceOfN(forged, 0, 4).Draw(t, "forged") {
				k.learn(now, a)
			}
			k.learn(now, Announcement{Term: term, Holder: master, Active: true, Seq: seq, ValidFor: 6 * time.Second})
			if rapid.IntRange(0, 9).Draw(t, "gone") == 0 && now.Sub(gone) > 30*time.Second {
				gone = now
				k.memberGone(now, "m")
			}
			const step = 500 * time.Millisecond
			switch h, tm := k.master(now, "self"); {
			case h == nil:
				hidden += step
			case h.InstanceID != "m" || tm != term:
				wrong += step
				hidden += step
			default:
				hidden = 0
			}
			if hidden > 2*outranksFor+step { // its end was forged, and then its departure
				t.Fatalf("the master is not named for %v", hidden)
			}
			if wrong > trialTime {
				t.Fatalf("another is named for %v", wrong)
			}
			now = now.Add(step)
		}
		if len(k.claims) > maxClaims || len(k.gone) > maxGone {
			t.Fatalf("%d claims and %d gone are remembered", len(k.claims), len(k.gone))
		}
	})
}

func TestAnnouncementWireForm(t *testing.T) {
	active := Announcement{
		Term: 7, ClusterID: "c1", Active: true, Seq: 3, ValidFor: 4850 * time.Millisecond,
		Holder: driver.Holder{NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.1:7946", AppAddrs: map[string]string{"http": "10.0.0.1:80"}},
	}
	over := active
	over.Active, over.ValidFor = false, 0
	proven := Announcement{Term: 7, Holder: driver.Holder{InstanceID: "i1"}, Active: true, Proof: "random text"}
	stamped := Announcement{Term: 7, Holder: driver.Holder{InstanceID: "i1"}, Active: true, Clock: "c0ffee", At: 5}
	for want, a := range map[string]Announcement{
		`{"v":1,"term":7,"cluster_id":"c1","holder":{"node_id":"n1","instance_id":"i1","addr":"10.0.0.1:7946","app_addrs":{"http":"10.0.0.1:80"}},"active":true,"seq":3,"valid_for_ms":4850}`: active,
		`{"v":1,"term":7,"cluster_id":"c1","holder":{"node_id":"n1","instance_id":"i1","addr":"10.0.0.1:7946","app_addrs":{"http":"10.0.0.1:80"}},"active":false,"seq":3}`:                    over,
		`{"v":1,"term":7,"cluster_id":"c1","active":false}`:                                                                              {Term: 7, ClusterID: "c1"},
		`{"v":1,"term":7,"cluster_id":"","holder":{"node_id":"","instance_id":"i1","addr":""},"active":true,"proof":"random text"}`:      proven,
		`{"v":1,"term":7,"cluster_id":"","holder":{"node_id":"","instance_id":"i1","addr":""},"active":true,"clock":"c0ffee","at_ns":5}`: stamped,
	} {
		if got := string(a.Encode()); got != want {
			t.Errorf("Encode:\n got %s\nwant %s", got, want)
		}
		got, err := DecodeAnnouncement([]byte(want))
		if diff := cmp.Diff(a, got); diff != "" || err != nil {
			t.Errorf("Decode(%s): %v %s", want, err, diff)
		}
	}
	if a, err := DecodeAnnouncement([]byte(`{"v":1,"term":1,"later":"field","valid_for_ms":999999999}`)); err != nil || a.ValidFor != maxAnnouncedValidity {
		t.Errorf("unknown field and a long validity: %+v, %v", a, err)
	}
	long := Announcement{Term: 7, Proof: strings.Repeat("x", maxProof+1)}
	if a, err := DecodeAnnouncement(long.Encode()); err != nil || a.Proof != "" {
		t.Errorf("a long proof: %d bytes of it, %v", len(a.Proof), err)
	}
	for _, bad := range []string{``, `null`, `[]`, `{}`, `{"v":1}`, `{"v":2,"term":1}`, `{"v":1,"term":-1}`, `{"v":1,"term":1,"active":true}`, `{"v":1,"term":1,"active":true,"holder":{}}`} {
		if _, err := DecodeAnnouncement([]byte(bad)); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("Decode(%q) = %v, want ErrInvalid", bad, err)
		}
	}
}

func FuzzDecodeAnnouncement(f *testing.F) {
	f.Add([]byte(`{"v":1,"term":7,"cluster_id":"c1","holder":{"node_id":"n","instance_id":"i","addr":"a:1"},"active":true,"seq":3,"valid_for_ms":4850}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAnnouncement(b)
		if err != nil {
			return
		}
		again, err := DecodeAnnouncement(a.Encode())
		if err != nil || again.Term != a.Term || again.Active != a.Active || again.ValidFor != a.ValidFor {
			t.Errorf("%+v became %+v, %v", a, again, err)
		}
	})
}

func TestFormation(t *testing.T) {
	for _, tt := range []struct {
		f       Formation
		members int
		allowed bool
		reason  string
	}{
		{Formation{}, 1, true, ""},
		{Formation{Mode: Auto, Expect: 3}, 1, false, "waiting for 3 members, sees 1"},
		{Formation{Mode: Auto, Expect: 3}, 3, true, ""},
		{Formation{Mode: Auto, Expect: 3}, 4, true, ""},
		{Formation{Mode: JoinOnly}, 5, false, "join-only"},
		{Formation{Mode: Single}, 1, true, ""},
		{Formation{Mode: Single}, 2, false, "forbids a second member, sees 2"},
		{Formation{Mode: "odd"}, 1, false, `"odd" is unknown`},
	} {
		d := tt.f.Decide(tt.members)
		if d.Allowed != tt.allowed || !strings.Contains(d.Reason, tt.reason) || d.Allowed != (d.Reason == "") {
			t.Errorf("%+v with %d members: %+v", tt.f, tt.members, d)
		}
	}
	for expected, want := range []int{0, 1, 2, 2, 3, 3} {
		if got := Majority(expected); got != want {
			t.Errorf("Majority(%d) = %d, want %d", expected, got, want)
		}
	}
}

// The parts of a grant's validity fit into it, whatever it is.
func TestPlanFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "validity"))
		drain := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "drain"))
		p, err := planFor(v, drain)
		if err != nil {
			if v >= minValidFor {
				t.Fatal(err)
			}
			return
		}
		if sum := p.renewEvery + 2*p.callTimeout + p.drain; sum > usable(v) || p.drain > drain || p.renewEvery <= 0 || p.drain < 0 {
			t.Fatalf("%+v takes %v of the %v that can be used", p, sum, usable(v))
		}
	})
	if p, err := planFor(900*time.Millisecond, time.Second); err != nil || p.drain < 150*time.Millisecond {
		t.Errorf("the default of a static list: %+v, %v", p, err)
	}
}

func TestConfigErrors(t *testing.T) {
	_, err := New(Config{TTL: 100 * time.Millisecond, DrainTimeout: -time.Second})
	for _, want := range []string{"no authority", "no instance id", "drain timeout is -1s", "a ttl of at least 210ms"} {
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("New = %v, want %q in it", err, want)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, time.Minute} {
		h.observe(d)
	}
	c := h.Cumulative()
	if h.Count != 4 || h.Last != time.Minute || c[0.001] != 2 || c[0.005] != 3 || c[2.5] != 3 {
		t.Errorf("%+v %v", h, c)
	}
}
