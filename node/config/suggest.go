package config

import (
	"cmp"
	"fmt"
	"strings"
)

func (e *entry) names() []string {
	names := make([]string, len(e.children))
	for i, c := range e.children {
		names[i] = c.name
	}
	return names
}

// suggest says what may have been meant by the unknown key name in section e.
func (s *schema) suggest(e *entry, name string) string {
	what := "unknown key"
	if e.key == "provider" {
		what = "unknown provider"
	}
	near, far := nearest(name, e.names())
	if near != "" && far <= 1 {
		return fmt.Sprintf("%s; did you mean %q?", what, near)
	}
	if key := s.elsewhere(name); key != "" {
		return fmt.Sprintf("%s; did you mean %s?", what, key)
	}
	if near != "" {
		return fmt.Sprintf("%s; did you mean %q?", what, near)
	}
	if len(e.children) == 0 {
		return what + "; none is known here"
	}
	return fmt.Sprintf("%s; known here: %s", what, strings.Join(e.names(), ", "))
}

// elsewhere finds the key whose name is right and stands in another section, the
// one nearest to the top.
func (s *schema) elsewhere(name string) string {
	var best string
	for key := range s.byKey {
		if key != name && !strings.HasSuffix(key, "."+name) {
			continue
		}
		if best == "" || cmp.Or(
			cmp.Compare(strings.Count(key, "."), strings.Count(best, ".")),
			cmp.Compare(key, best)) < 0 {
			best = key
		}
	}
	return best
}

// nearest returns the candidate that name is most likely a misspelling of, and
// how far it is; or nothing.
func nearest(name string, candidates []string) (string, int) {
	best, bound := "", min(3, (len(name)+2)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c), bound); d < bound {
			best, bound = c, d
		}
	}
	return best, bound
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b; counting stops at bound.
func distance(a, b string, bound int) int {
	if abs(len(a)-len(b)) >= bound {
		return bound
	}
	var before, last, row []int
	last = make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row = make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return min(last[len(b)], bound)
}

func abs(n int) int { return max(n, -n) }
