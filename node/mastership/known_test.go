package mastership

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// Whatever the authority and gossip say, in any order: the named term never
// falls, a term that is known to be over is not named, nor is one that the
// authority shows to be vacant, nor one whose holder fell silent, nor oneself.
func TestKnownMasterIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			k     known
			now   = clock.Instant(time.Hour)
			named driver.Term
			over  driver.Term
			sent  = map[driver.Term]uint64{}
			heard = map[driver.Term]uint64{}
			dead  = map[string]bool{}
			seen  driver.Mastership
			fails clock.Instant
		)
		// One holder for each term, as the authority promises.
		holder := func(term driver.Term) driver.Holder {
			id := fmt.Sprintf("i%d", term%4)
			return driver.Holder{NodeID: id, InstanceID: id}
		}
		term := rapid.Custom(func(t *rapid.T) driver.Term { return driver.Term(rapid.IntRange(1, 8).Draw(t, "term")) })
		t.Repeat(map[string]func(*rapid.T){
			"observe": func(t *rapid.T) {
				seen = driver.Mastership{Term: term.Draw(t, "t")}
				if rapid.Bool().Draw(t, "held") {
					h := holder(seen.Term)
					seen.Holder = &h
				}
				fails = 0
				k.observe(seen)
			},
			"observation fails": func(t *rapid.T) {
				k.observeFailed(now)
				if fails == 0 {
					fails = now
				}
			},
			"hear": func(t *rapid.T) {
				tm := term.Draw(t, "t")
				sent[tm]++
				seq := sent[tm]
				if rapid.Bool().Draw(t, "old") {
					seq = uint64(rapid.IntRange(1, int(seq)).Draw(t, "seq"))
				}
				h := holder(tm)
				if seq > heard[tm] { // a sign of life, however late it comes
					heard[tm] = seq
					delete(dead, h.InstanceID)
				}
				k.learn(now, Announcement{Term: tm, Holder: h, Active: true, Seq: seq, ValidFor: 5 * time.Second})
			},
			"end": func(t *rapid.T) {
				tm := term.Draw(t, "t")
				over = max(over, tm)
				k.learn(now, Announcement{Term: tm, Holder: holder(tm)})
			},
			"term alone": func(t *rapid.T) { k.learn(now, Announcement{Term: term.Draw(t, "t")}) },
			"gone": func(t *rapid.T) {
				h, _ := k.master(now, "i0")
				if h != nil {
					dead[h.InstanceID] = true
					k.memberGone(h.InstanceID)
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 20000).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				h, tm := k.master(now, "i0")
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
				if tm <= over {
					t.Fatalf("term %d named, which is over", tm)
				}
				if seen.Holder == nil && seen.Term >= tm {
					t.Fatalf("term %d named, though the authority shows term %d vacant", tm, seen.Term)
				}
				if h.InstanceID == "i0" {
					t.Fatal("named itself")
				}
				if dead[h.InstanceID] {
					t.Fatalf("%s named, which is gone", h.InstanceID)
				}
				byAuthority := seen.Holder != nil && seen.Term == tm && (fails == 0 || now < fails.Add(observationGrace))
				byGossip := k.heard.Term == tm && now < k.heardUntil
				if !byAuthority && !byGossip {
					t.Fatalf("term %d named by nobody", tm)
				}
			},
		})
	})
}

func TestAnnouncementWireForm(t *testing.T) {
	active := Announcement{
		Term: 7, ClusterID: "c1", Active: true, Seq: 3, ValidFor: 4850 * time.Millisecond,
		Holder: driver.Holder{NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.1:7946", AppAddrs: map[string]string{"http": "10.0.0.1:80"}},
	}
	over := active
	over.Active, over.ValidFor = false, 0
	for want, a := range map[string]Announcement{
		`{"v":1,"term":7,"cluster_id":"c1","holder":{"node_id":"n1","instance_id":"i1","addr":"10.0.0.1:7946","app_addrs":{"http":"10.0.0.1:80"}},"active":true,"seq":3,"valid_for_ms":4850}`: active,
		`{"v":1,"term":7,"cluster_id":"c1","holder":{"node_id":"n1","instance_id":"i1","addr":"10.0.0.1:7946","app_addrs":{"http":"10.0.0.1:80"}},"active":false,"seq":3}`:                    over,
		`{"v":1,"term":7,"cluster_id":"c1","active":false}`: {Term: 7, ClusterID: "c1"},
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
