package voter

import (
	"errors"
	"testing"

	"github.com/musterhq/muster/providers/static/internal/raftstream"
)

func TestNextChange(t *testing.T) {
	up := func(id string, list ...string) PeerStatus {
		return PeerStatus{Status: Status{Addr: raftstream.AddrOf(id), ID: id, Voters: list}}
	}
	foreign := up("c#1", "a", "b", "c")
	foreign.Founding = "another"
	elsewhere := up("c#1", "a", "b", "c")
	elsewhere.Addr = "d"
	down := PeerStatus{err: errors.New("down")}
	abc := []string{"a", "b", "c"}
	abcd := []string{"a", "b", "c", "d"}
	for _, c := range []struct {
		says    string
		list    []string
		servers []string
		seen    map[string]PeerStatus
		want    change
	}{
		{"nothing to do", abc, abc, map[string]PeerStatus{"b": up("b", abc...), "c": down}, change{}},
		{"a voter that came back without its state", abc, abc,
			map[string]PeerStatus{"b": up("b", abc...), "c": up("c#1", abc...)}, change{remove: "c"}},
		{"which is of another founding", abc, abc,
			map[string]PeerStatus{"b": up("b", abc...), "c": foreign}, change{}},
		{"or is one that answers in another's place", abc, abc,
			map[string]PeerStatus{"b": up("b", abc...), "c": elsewhere}, change{}},
		{"one that is missing", abc, []string{"a", "b"},
			map[string]PeerStatus{"b": up("b", abc...), "c": foreign}, change{}},
		{"is taken in again", abc, []string{"a", "b"},
			map[string]PeerStatus{"b": up("b", abc...), "c": up("c#1", abc...)}, change{add: "c#1"}},
		{"a voter that has no id yet is not another one", abc, abc,
			map[string]PeerStatus{"b": up("b", abc...), "c": up("", abc...)}, change{}},
		{"one more, to which a majority agrees", abcd, abc,
			map[string]PeerStatus{"b": up("b", abcd...), "c": up("c", abc...), "d": up("d#1", abcd...)}, change{add: "d#1"}},
		{"one more, and no majority", abcd, abc,
			map[string]PeerStatus{"b": up("b", abc...), "c": up("c", abc...), "d": up("d#1", abcd...)}, change{}},
		{"one more, which is not there", abcd, abc,
			map[string]PeerStatus{"b": up("b", abcd...), "c": up("c", abcd...), "d": down}, change{}},
		{"one less", abc, abcd,
			map[string]PeerStatus{"b": up("b", abc...), "c": up("c", abc...), "d": down}, change{remove: "d"}},
		{"one less, which is the leader", []string{"b", "c"}, abc,
			map[string]PeerStatus{"b": up("b", "b", "c"), "c": up("c", "b", "c")}, change{remove: "a"}},
		{"the old and the new one differ by two", []string{"a", "b", "d"}, abc,
			map[string]PeerStatus{"b": up("b", "a", "b", "d"), "c": up("c", "a", "b", "d"), "d": up("d#1", "a", "b", "d")}, change{}},
		{"the last one stays", []string{"b"}, []string{"a"}, map[string]PeerStatus{"b": up("b#1", "b")}, change{}},
	} {
		if got := nextChange("a", "a", "", c.list, c.servers, c.seen); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.says, got, c.want)
		}
	}
}
