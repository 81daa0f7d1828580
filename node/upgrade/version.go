package upgrade

import (
	"cmp"
	"fmt"
	"strings"
)

// Version is numbers with dots between them, such as 1.2, 7 or 2026.11.30. Versions are ordered
// number by number, and a number that is missing is 0: 1.2 is 1.2.0, and is before 1.10.
type Version string

// Compare returns -1, 0 or 1 where v is before w, the same, or after it.
func (v Version) Compare(w Version) int {
	return compareVersions(string(v), string(w))
}

func compareVersions(v, w string) int {
	for v != "" || w != "" {
		var a, b string
		a, v, _ = strings.Cut(v, ".")
		b, w, _ = strings.Cut(w, ".")
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		// Without leading zeros the longer number is the greater one.
		if c := cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)); c != 0 {
			return c
		}
	}
	return 0
}

// maxVersion bounds the length of a version.
const maxVersion = 64

func (v Version) validate() error {
	bad := v == "" || len(v) > maxVersion
	for number := range strings.SplitSeq(string(v), ".") {
		bad = bad || number == "" || strings.Trim(number, "0123456789") != ""
	}
	if bad {
		return fmt.Errorf("version %q: want numbers with dots between them, such as 1.2.0", string(v))
	}
	return nil
}
