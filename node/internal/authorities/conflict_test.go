package authorities

import (
	"strings"
	"testing"
	"time"
)

func TestConflict(t *testing.T) {
	const none = ""
	self := func(authorities string) Member {
		return Member{NodeID: "self", Self: true, Authorities: split(authorities)}
	}
	other := func(id, authorities string) Member { return Member{NodeID: id, Authorities: split(authorities)} }
	for name, test := range map[string]struct {
		members []Member
		with    string // the id of the member, or none
	}{
		"nobody":                            {nil, none},
		"alone":                             {[]Member{self("a")}, none},
		"the same":                          {[]Member{self("a"), other("n1", "a")}, none},
		"another":                           {[]Member{self("a"), other("n1", "b")}, "n1"},
		"another, listed first":             {[]Member{other("n1", "b"), self("a")}, "n1"},
		"the third":                         {[]Member{self("a"), other("n1", "a"), other("n2", "b")}, "n2"},
		"one of both":                       {[]Member{self("a"), other("n1", "a,b")}, none},
		"both here and one there":           {[]Member{self("a,b"), other("n1", "b")}, none},
		"two others, by way of this node":   {[]Member{self("a,b"), other("n1", "a"), other("n2", "b")}, none},
		"both here and a third there":       {[]Member{self("a,b"), other("n1", "c")}, "n1"},
		"a member that is never granted":    {[]Member{self("a"), other("n1", "")}, none},
		"this node is never granted":        {[]Member{self(""), other("n1", "b")}, none},
		"this node is not among its view":   {[]Member{other("n1", "b")}, none},
		"neither is ever granted":           {[]Member{self(""), other("n1", "")}, none},
		"one never granted, and a conflict": {[]Member{self("a"), other("n1", ""), other("n2", "b")}, "n2"},
	} {
		got := Conflict(test.members)
		if (got == "") != (test.with == none) || !strings.Contains(got, test.with) {
			t.Errorf("%s: %q, want a conflict with %q", name, got, test.with)
		}
	}
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func TestPeersMet(t *testing.T) {
	for name, test := range map[string]struct {
		peers Peers
		met   bool
	}{
		"one provider":                           {Peers{Providers: 1, Members: 1}, true},
		"one provider, which lists another node": {Peers{Providers: 1, Members: 1, Settled: true, Listed: true}, true},
		"no provider has answered":               {Peers{Providers: 2, Members: 1}, false},
		"no provider has answered in time":       {Peers{Providers: 2, Members: 1, Running: meetTimeout}, true},
		"all list nobody else":                   {Peers{Providers: 2, Members: 1, Settled: true}, true},
		"one lists another node":                 {Peers{Providers: 2, Members: 1, Settled: true, Listed: true}, false},
		"one lists another, and the rest wait":   {Peers{Providers: 2, Members: 1, Listed: true, Running: meetTimeout - time.Millisecond}, false},
		"the listed node did not come in time":   {Peers{Providers: 2, Members: 1, Settled: true, Listed: true, Running: meetTimeout}, true},
		"another member is met":                  {Peers{Providers: 2, Members: 2, Listed: true}, true},
	} {
		if got := test.peers.Met(); got != test.met {
			t.Errorf("%s: %v, want %v", name, got, test.met)
		}
	}
}
