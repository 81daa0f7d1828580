package quorum

import (
	"errors"
	"testing"
)

func TestNextChange(t *testing.T) {
	up := func(id string, list ...string) sighting {
		return sighting{status: status{Addr: addrOf(id), ID: id, Voters: list}}
	}
	down := sighting{err: errors.New("down")}
	abc := []string{"a", "b", "c"}
	abcd := []string{"a", "b", "c", "d"}
	for _, c := range []struct {
		says    string
		list    []string
		servers []string
		seen    map[string]sighting
		want    change
	}{
		{"nothing to do", abc, abc, map[string]sighting{"b": up("b", abc...), "c": down}, change{}},
		{"a voter that came back without its state", abc, abc,
			map[string]sighting{"b": up("b", abc...), "c": up("c#1", abc...)}, change{remove: "c"}},
		{"is taken in again", abc, []string{"a", "b"},
			map[string]sighting{"b": up("b", abc...), "c": up("c#1", abc...)}, change{add: "c#1"}},
		{"a voter that has no id yet is not another one", abc, abc,
			map[string]sighting{"b": up("b", abc...), "c": up("", abc...)}, change{}},
		{"one more, to which a majority agrees", abcd, abc,
			map[string]sighting{"b": up("b", abcd...), "c": up("c", abc...), "d": up("d#1", abcd...)}, change{add: "d#1"}},
		{"one more, and no majority", abcd, abc,
			map[string]sighting{"b": up("b", abc...), "c": up("c", abc...), "d": up("d#1", abcd...)}, change{}},
		{"one more, which is not there", abcd, abc,
			map[string]sighting{"b": up("b", abcd...), "c": up("c", abcd...), "d": down}, change{}},
		{"one less", abc, abcd,
			map[string]sighting{"b": up("b", abc...), "c": up("c", abc...), "d": down}, change{remove: "d"}},
		{"one less, which is the leader", []string{"b", "c"}, abc,
			map[string]sighting{"b": up("b", "b", "c"), "c": up("c", "b", "c")}, change{remove: "a"}},
		{"the old and the new one differ by two", []string{"a", "b", "d"}, abc,
			map[string]sighting{"b": up("b", "a", "b", "d"), "c": up("c", "a", "b", "d"), "d": up("d#1", "a", "b", "d")}, change{}},
		{"the last one stays", []string{"b"}, []string{"a"}, map[string]sighting{"b": up("b#1", "b")}, change{}},
	} {
		if got := nextChange("a", "a", c.list, c.servers, c.seen); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.says, got, c.want)
		}
	}
}
