package claim

import (
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/musterhq/muster/discovery/driver"
)

func TestOutranks(t *testing.T) {
	for _, c := range []struct {
		cluster    string
		term, mine driver.Term
		want       bool
	}{
		{"c", 5, 5, false}, {"c", 4, 5, false}, {"c", 6, 5, true}, {"other", 6, 5, false},
		{"c", 5 + maxLead, 5, true}, {"c", 6 + maxLead, 5, false}, {"c", math.MaxUint64, 5, false},
	} {
		r := Owner{ClusterID: c.cluster, Term: c.term}
		if got := r.outranks(Owner{ClusterID: "c", Term: c.mine}); got != c.want {
			t.Errorf("%+v outranks %d: %v", r, c.mine, got)
		}
		err := Replaceable(t.Context(), Record{Owner: r}, Owner{ClusterID: "c", Term: c.mine})
		if errors.Is(err, ErrSuperseded) != c.want {
			t.Errorf("%+v is replaced in term %d: %v", r, c.mine, err)
		}
	}
}

func TestCut(t *testing.T) {
	text := strings.Repeat("\u00e9", 10)
	for size := range 30 {
		got := Cut(text, size)
		if len(got) > size || !utf8.ValidString(got) || !strings.HasPrefix(text, got) || len(got) < min(size, len(text))-1 {
			t.Errorf("%d bytes: %q", size, got)
		}
	}
}

func TestContain(t *testing.T) {
	boom := errors.New("boom")
	for want, f := range map[string]func() error{
		"boom": func() error { return boom }, "panic: bang": func() error { panic("bang") },
		"Goexit": func() error { runtime.Goexit(); return nil },
	} {
		if err := Contain(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := Contain(func() error { return nil }); err != nil {
		t.Error(err)
	}
}
