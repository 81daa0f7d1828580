package config

import (
	"cmp"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/decode"
)

// A key that means nothing is an error wherever it is: fileReader.section finds those of the file,
// and environment.misspelled those of the variables. What is reported of them is here.

func (e *entry) names() []string {
	names := make([]string, len(e.children))
	for i, c := range e.children {
		names[i] = c.name
	}
	return names
}

// suggest says what may have been meant by the unknown key name in section e.
func (s *schema) suggest(e *entry, name string) (problem, hint string) {
	what := "unknown key"
	if e.key == "provider" {
		what = "unknown provider"
	}
	near, far := nearest(name, e.names())
	if near != "" && far <= 1 {
		return what, fmt.Sprintf("did you mean %q?", near)
	}
	if key := s.elsewhere(name); key != "" {
		return what, fmt.Sprintf("did you mean %s?", key)
	}
	if near != "" {
		return what, fmt.Sprintf("did you mean %q?", near)
	}
	if len(e.children) == 0 {
		return what, "none is known here"
	}
	return what, fmt.Sprintf("known here: %s", strings.Join(e.names(), ", "))
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

// unknown is what stands at a key that means nothing. A misspelled password is
// no less secret: the value is shown only where the key does not look like one, and where what is
// meant by it, as far as that is known, has no secret.
// e is the section where the key stands, if its names are to be compared.
func (r *fileReader) unknown(e *entry, name string, n *yaml.Node) string {
	if decode.LooksSecret(name) {
		return decode.Redacted
	}
	if e == nil {
		return brief(n)
	}
	if meant, ok := r.schema.byKey[r.schema.elsewhere(name)]; ok && meant.secret() {
		return decode.Redacted
	}
	near, _ := nearest(name, e.names())
	if c := e.child(near); c != nil {
		return r.brief(c, n)
	}
	if n.Kind == yaml.ScalarNode && e.holdsSecret() {
		return decode.Redacted
	}
	return brief(n)
}
