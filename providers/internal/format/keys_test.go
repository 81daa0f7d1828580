package format

import (
	"fmt"
	"slices"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

func TestKeys(t *testing.T) {
	var k Keys
	i := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:1"}
	moved, other := i, i
	moved.Addr = "10.0.0.6:1"
	other.InstanceID = "i2"
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("what was never added", k.Last(i, ""))
	check("what may have been added", k.Last(i, "a"), "a")
	k.Add(i, "a")
	check("at one place", k.Last(i, "a"), "a")
	check("without having moved", k.Former(i, "a"))
	k.Add(moved, "b")
	check("having moved", k.Former(moved, "b"), "a")
	check("having moved, and leaving", k.Last(moved, "b"), "a", "b")
	check("leaving without an address", k.Last(moved, ""), "a", "b")
	k.Add(other, "a")
	check("where another has moved in", k.Former(moved, "b"))
	check("leaving where another has moved in", k.Last(i, "a"), "b")
	check("the other", k.Last(other, "a"), "a")
	k.Remove("b")
	check("having left", k.Last(i, ""))
	k.Remove("a")
	if len(k.owners) > 0 {
		t.Errorf("kept is %v", k.owners)
	}
}

// What is to be removed comes in one order, whatever was added first.
func TestKeysAreSorted(t *testing.T) {
	var k Keys
	i := driver.Instance{Service: "web", InstanceID: "a"}
	var want []string
	for n := range 20 {
		want = append(want, fmt.Sprintf("/web/%02d", n))
	}
	for n := range want {
		k.Add(i, want[(n*7)%len(want)])
	}
	if got := k.Last(i, ""); !slices.Equal(got, want) {
		t.Errorf("last are %q", got)
	}
	if got := k.Former(i, want[5]); !slices.Equal(got, slices.Delete(slices.Clone(want), 5, 6)) {
		t.Errorf("former are %q", got)
	}
}
