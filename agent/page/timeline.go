package page

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// maxEntries bounds a timeline.
	maxEntries = 200
	// maxText bounds the runes of an entry, some of which others have a say in.
	maxText = 300
	// factsEvery is how often facts are looked at.
	factsEvery = time.Second
)

// kind is the kind of an entry, as the page names it.
type kind string

const (
	kindMaster  kind = "master"
	kindMember  kind = "member"
	kindFailure kind = "failure"
	kindWarning kind = "warning"
	kindOver    kind = "over"
	kindService kind = "service"
)

// entry is one line of a timeline.
type entry struct {
	At   time.Time
	Kind kind
	Text string
}

// fact is what is true for a while: an entry says that it has begun, and another that it is over.
type fact struct {
	kind kind
	// text is what is said of it. A fact with another text is still the same.
	text string
	// over is what is said when it is over, and overKind of what kind that is. Empty: its name,
	// and kindOver.
	over     string
	overKind kind
}

// timeline is the newest of what has happened since the start. All methods are safe for
// concurrent use.
type timeline struct {
	mu      sync.Mutex
	entries []entry // the oldest first
	facts   map[string]fact
	since   map[string]time.Time
}

func newTimeline() *timeline {
	return &timeline{facts: make(map[string]fact), since: make(map[string]time.Time)}
}

func (t *timeline) add(at time.Time, k kind, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.append(entry{At: at, Kind: k, Text: shorten(text)})
}

// append keeps the bound. The oldest entry of the most frequent kind goes, so that many
// members which join do not push out who was master.
func (t *timeline) append(e entry) {
	t.entries = append(t.entries, e)
	if len(t.entries) <= maxEntries {
		return
	}
	count := make(map[kind]int)
	for _, e := range t.entries {
		count[e.Kind]++
	}
	most := slices.Max(slices.Collect(maps.Values(count)))
	i := slices.IndexFunc(t.entries, func(e entry) bool { return count[e.Kind] == most })
	t.entries = slices.Delete(t.entries, i, i+1)
}

// newest returns the entries, the newest first.
func (t *timeline) newest() []entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.Clone(t.entries)
	slices.Reverse(out)
	return out
}

// watch looks at facts, by name, until ctx ends.
func (t *timeline) watch(ctx context.Context, facts func() map[string]fact) {
	tick := time.NewTicker(factsEvery)
	defer tick.Stop()
	for {
		t.observe(time.Now(), facts())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// observe adds which facts have begun, and which are over.
func (t *timeline) observe(now time.Time, facts map[string]fact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.facts)) {
		if _, ok := facts[name]; ok {
			continue
		}
		k, text := t.facts[name].overKind, t.facts[name].over
		if text == "" {
			k, text = kindOver, fmt.Sprintf("%s, after %s", name, now.Sub(t.since[name]).Round(time.Second))
		}
		t.append(entry{At: now, Kind: k, Text: shorten(text)})
		delete(t.facts, name)
		delete(t.since, name)
	}
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		f := facts[name]
		if _, ok := t.facts[name]; !ok {
			t.since[name] = now
			t.append(entry{At: now, Kind: f.kind, Text: shorten(f.text)})
		}
		t.facts[name] = f
	}
}

// shorten cuts a text that is longer than a line of a page should be.
func shorten(text string) string {
	runes := []rune(text)
	if len(runes) <= maxText {
		return text
	}
	return string(runes[:maxText]) + "…"
}
