package mastership

import (
	"log/slog"
	"time"

	"github.com/musterhq/muster/internal/alarm"
)

// suspicionQuiet is how long nothing of the kind was heard before it is said to be over.
const suspicionQuiet = time.Minute

// What is heard and not believed is logged, so that an operator can find the node that
// says it. A dispute is settled by the authority, or ends with the mastership.
var (
	announcedTerm = alarm.Kind{Name: "term_ignored", Raised: "announced term ignored", Cleared: "absurd terms are no longer announced",
		Quiet: suspicionQuiet}
	announcedCluster = alarm.Kind{Name: "cluster_ignored", Raised: "announcement of another cluster ignored", Cleared: "another cluster is no longer announced",
		Quiet: suspicionQuiet}
	masterDisputed = alarm.Kind{Name: "mastership_disputed", Raised: "mastership disputed", Cleared: "mastership confirmed"}
)

func (e *Elector) warn(c suspect) {
	kind := masterDisputed
	switch c.kind {
	case settled:
		e.alarms.Clear(masterDisputed, "")
		return
	case absurdTerm:
		kind = announcedTerm
	case foreignCluster:
		kind = announcedCluster
	}
	from := c.said.From
	if from == "" {
		from = c.said.Holder.NodeID
	}
	e.alarms.Raise(kind, "", slog.String("from", from), slog.Uint64("announced_term", uint64(c.said.Term)),
		slog.String("announced_node_id", c.said.Holder.NodeID), slog.Any("error", c.err))
}

// endDispute says that none is left to be settled.
func (e *Elector) endDispute() {
	if e.m.dispute == nil {
		e.alarms.Clear(masterDisputed, "")
	}
}
