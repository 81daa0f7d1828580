package node

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/mastership"
)

// A reading of the clock of a master on another host is recorded once in a while, and at once for a
// new term.
func TestHeardIsRecorded(t *testing.T) {
	var kept bytes.Buffer
	n := new(Node)
	n.history, n.alarms = history.NewWriter(&kept, "b", "b1", clock.ID()), alarm.New(slog.New(slog.DiscardHandler))
	said := func(instance string, term driver.Term, name string, at int64) {
		n.recordHeard(mastership.Announcement{
			Term: term, ClusterID: "x", Active: true, Holder: driver.Holder{NodeID: "a", InstanceID: instance}, Clock: name, At: time.Duration(at),
		})
	}
	said("a1", 3, clock.ID(), 1) // of this host
	said("a1", 3, "", 2)         // passed on
	n.recordHeard(mastership.Announcement{Term: 3, Holder: driver.Holder{NodeID: "a", InstanceID: "a1"}, Clock: "far", At: 3})
	said("a1", 3, "far", 4)
	said("a1", 3, "far", 5) // too soon
	said("a1", 4, "far", 6)
	n.heard.at = clock.Now().Add(-heardInterval - time.Second)
	said("a1", 4, "far", 7)
	records, err := history.Read(&kept)
	if err != nil {
		t.Fatal(err)
	}
	type what struct {
		term uint64
		at   int64
	}
	var got []what
	for _, r := range records {
		if r.Kind != history.Heard || r.Peer.Clock != "far" || r.Peer.InstanceID != "a1" || r.Peer.NodeID != "a" || r.Clock != clock.ID() || r.BootNS <= 0 {
			t.Errorf("a record: %+v", r)
		}
		got = append(got, what{r.Term, r.Peer.BootNS})
	}
	if diff := cmp.Diff([]what{{3, 4}, {4, 6}, {4, 7}}, got, cmp.AllowUnexported(what{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
