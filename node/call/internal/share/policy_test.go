package share

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

func TestDivide(t *testing.T) {
	for name, test := range map[string]struct {
		total   int
		demands []int
		want    []int
	}{
		"nobody":                         {5, nil, []int{}},
		"nothing":                        {0, []int{3, 4}, []int{0, 0}},
		"enough, and the rest evenly":    {20, []int{3, 0, 5}, []int{7, 4, 9}},
		"one alone":                      {10, []int{30, 0, 0}, []int{10, 0, 0}},
		"one each, and in proportion":    {10, []int{31, 11, 1}, []int{6, 3, 1}},
		"equal demands":                  {9, []int{50, 50, 50}, []int{3, 3, 3}},
		"the largest remainder":          {11, []int{50, 50, 50}, []int{4, 4, 3}},
		"just enough for one each":       {3, []int{500, 1, 7}, []int{1, 1, 1}},
		"fewer than nodes, by the order": {2, []int{5, 5, 5}, []int{1, 1, 0}},
		"the largest numbers":            {MaxTotal, []int{MaxTotal, MaxTotal, 1}, []int{MaxTotal / 2, MaxTotal/2 - 1, 1}},
	} {
		var all []claimant
		for _, d := range test.demands {
			all = append(all, claimant{demand: d})
		}
		if got := divide(test.total, all, 0); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// No more than the total is divided, all of it if it is wanted, and everybody has something of it
// within a turn for each.
func TestDivideAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 66))
	for range 2000 {
		total, n := rng.IntN(30), 1+rng.IntN(8)
		all := make([]claimant, n)
		served, busy := make([]bool, n), 0
		for i := range all {
			if all[i].demand = rng.IntN(3) * rng.IntN(40); all[i].demand > 0 {
				busy++
			}
		}
		now := clock.Instant(1)
		for range 2 * n {
			to := divide(total, all, now)
			sum, demand := 0, 0
			for i, k := range to {
				sum += k
				demand += all[i].demand
				served[i] = served[i] || k > 0
				if has := k > 0; has != all[i].has {
					all[i].has, all[i].since = has, now
				}
			}
			if sum > total || sum < min(total, demand) {
				t.Fatalf("%v of %d for %v", to, total, all)
			}
			now = now.Add(turnLength + time.Millisecond)
		}
		for i := range all {
			if all[i].demand > 0 && total > 0 && !served[i] {
				t.Fatalf("%d never has anything of %d: %v", i, total, all)
			}
		}
	}
}

// Whatever a peer sends, a master grants no more than the total, and forgets nothing of it.
func FuzzAsk(f *testing.F) {
	f.Add(uint64(1), uint64(0), -1, math.MaxInt, math.MinInt, 7, math.MaxInt, -7)
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), 1, 1, 1, 1, 1, 1)
	f.Fuzz(func(t *testing.T, seq, serial uint64, held, part, whole, using, waiting, demand int) {
		s := &script{t: t, rules: soundRules(), now: 1e9}
		first := s.master(1, nil)
		a := s.holder("a")
		s.want(a, 4)
		s.ask(a, first)
		for _, token := range []string{"", first.self.Token, "another"} {
			q := Request{Holder: "x", Seq: seq, Serial: serial, Token: token, Held: held, Part: part, Whole: whole,
				Using: using, Waiting: waiting, Demand: demand}
			for _, d := range []*Divider{first, s.master(2, first)} {
				answer, verdict := d.Ask("x", q, s.now)
				if verdict == Granted && !answer.sane() {
					t.Errorf("%+v", answer)
				}
				d.Nudge(s.now)
				if sum := d.occupied(nil); d == first && sum > scriptTotal {
					t.Errorf("%d of %d", sum, scriptTotal)
				}
			}
		}
		b := s.holder("b")
		s.want(b, 4)
		sent := b.Send(s.now)
		b.Answered(Answer{Seq: sent.Seq, Serial: serial, Token: "t", Admit: held, Keep: part, Total: whole, Lease: time.Duration(waiting)}, s.now)
		if n := b.Counts(s.now); n.Share < 0 || n.Share > MaxTotal {
			t.Errorf("%+v", n)
		}
	})
}

func TestParse(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"total":5}`:            true,
		`{"total":-1}`:           false,
		`{"total":1000000001}`:   false,
		`{"total":1e400}`:        false,
		`nothing`:                false,
		`{"total":0,"new":true}`: true,
	} {
		if _, err := Parse([]byte(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	// The layout is what other versions read and write.
	r := Record{Total: 40, Reign: &Reign{Serial: 3, Token: "t", ClusterID: "c", Term: 7, InstanceID: "i", Params: Divide(15 * time.Second)}}
	const want = `{"total":40,"reign":{"serial":3,"token":"t","cluster_id":"c","term":7,"instance_id":"i","lease":10000000000,"fresh":5000000000}}`
	if got := string(r.Bytes()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
