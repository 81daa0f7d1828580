package page

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// texts returns the entries, the newest first, without their times.
func (t *timeline) texts() []string {
	var out []string
	for _, e := range t.newest() {
		out = append(out, string(e.Kind)+": "+e.Text)
	}
	return out
}

func TestFactsBeginAndEnd(t *testing.T) {
	l, now := newTimeline(), time.Unix(1_800_000_000, 0)
	l.observe(now, map[string]fact{"provider etcd": {kind: kindWarning, text: "provider etcd: refused"}})
	l.observe(now.Add(time.Second), map[string]fact{
		"provider etcd": {kind: kindWarning, text: "provider etcd: timed out"}, // the same, with another error
		"ready":         {kind: kindMember, text: "ready", over: "not ready", overKind: kindFailure},
	})
	l.observe(now.Add(90*time.Second), nil)
	l.observe(now.Add(91*time.Second), nil)
	want := []string{"failure: not ready", "over: provider etcd, after 1m30s", "member: ready", "warning: provider etcd: refused"}
	if diff := cmp.Diff(want, l.texts()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Many members that join push out neither who was master nor what was wrong.
func TestTimelineKeepsWhatIsRare(t *testing.T) {
	l, now := newTimeline(), time.Now()
	for i := range 3 {
		l.add(now, kindMaster, fmt.Sprint("master ", i))
		l.add(now, kindFailure, fmt.Sprint("failure ", i))
	}
	for i := range 5000 {
		l.add(now, kindMember, fmt.Sprint("member ", i))
	}
	texts := l.texts()
	if len(texts) != maxEntries || texts[0] != "member: member 4999" {
		t.Errorf("%d entries, the newest %q", len(texts), texts[0])
	}
	if all := strings.Join(texts, "\n"); strings.Count(all, "master: ") != 3 || strings.Count(all, "failure: ") != 3 {
		t.Errorf("what is rare is gone:\n%s", all)
	}
}

func TestTextsAreBounded(t *testing.T) {
	l := newTimeline()
	l.add(time.Now(), kindMember, strings.Repeat("ü", 10*maxText))
	l.observe(time.Now(), map[string]fact{"x": {kind: kindWarning, text: strings.Repeat("x", 10*maxText)}})
	for _, e := range l.newest() {
		if n := len([]rune(e.Text)); n != maxText+1 || !strings.HasSuffix(e.Text, "…") {
			t.Errorf("%d runes: %q", n, e.Text)
		}
	}
}
