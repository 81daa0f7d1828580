package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node"
)

// announced is the value of the record upgrade/nodes/NAME: which instance has steps up to which
// version. It is about those that run now, so that one that cannot be read is written again, and
// a node that finds itself missing puts itself back.
type announced struct {
	Instances map[string]announcement `json:"instances"`
}

type announcement struct {
	NodeID  string  `json:"node_id"`
	Version Version `json:"version"`
}

func readAnnounced(ctx context.Context, l Ledger, name string) (announced, driver.Revision, error) {
	r, err := l.Get(ctx, nodesPrefix+name)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		return announced{}, 0, err
	}
	var a announced
	if json.Unmarshal(r.Value, &a) != nil {
		a = announced{}
	}
	maps.DeleteFunc(a.Instances, func(_ string, n announcement) bool { return n.Version.validate() != nil })
	return a, r.Revision, nil
}

// announce records that self has steps of name up to version, and drops the instances that are
// not in view. It blocks until that is so, or ctx ends.
func announce(ctx context.Context, l Ledger, name string, version Version, view func() node.View, id, instance string) error {
	want := announcement{id, version}
	return editAnnounced(ctx, l, name, func(a announced) (announced, bool) {
		if a.Instances[instance] == want {
			return a, false
		}
		next := announced{map[string]announcement{instance: want}}
		for _, m := range view().Members {
			if had, ok := a.Instances[m.InstanceID]; ok && m.InstanceID != instance {
				next.Instances[m.InstanceID] = had
			}
		}
		return next, true
	})
}

// withdraw takes the announcement of an instance back. It blocks until that is so, or ctx ends.
func withdraw(ctx context.Context, l Ledger, name, instance string) error {
	return editAnnounced(ctx, l, name, func(a announced) (announced, bool) {
		_, ok := a.Instances[instance]
		delete(a.Instances, instance)
		return a, ok
	})
}

// editAnnounced writes what change returns, unless that reports that nothing changes.
func editAnnounced(ctx context.Context, l Ledger, name string, change func(announced) (announced, bool)) error {
	wait := backoff.Backoff{Max: announceMaxWait}
	for {
		a, rev, err := readAnnounced(ctx, l, name)
		if err != nil {
			return err
		}
		next, changes := change(a)
		if !changes {
			return nil
		}
		value, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("upgrade: %s: announcement: %w", name, err)
		}
		if _, err = l.Set(ctx, nodesPrefix+name, value, rev); !errors.Is(err, driver.ErrConflict) {
			return err
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}

// lacking names the members in view that have not announced version, by node id.
func (a announced) lacking(view node.View, version Version) []string {
	var nodes []string
	for _, m := range view.Members {
		has, ok := a.Instances[m.InstanceID]
		if !ok || has.Version.Compare(version) < 0 {
			nodes = append(nodes, m.NodeID)
		}
	}
	return nodes
}

// instancesAhead are the members in view that may be master and have announced a version after
// have.
func (a announced) instancesAhead(view node.View, have Version) []node.Member {
	var ahead []node.Member
	for _, m := range view.Members {
		has, announced := a.Instances[m.InstanceID]
		if announced && !m.Self && len(m.Authorities) > 0 && has.Version.Compare(have) > 0 {
			ahead = append(ahead, m)
		}
	}
	return ahead
}

// ahead returns which of the members has announced the highest version after have, and false if
// there is none.
func (a announced) ahead(members []node.Member, have Version) (id string, best Version, ok bool) {
	best = have
	for _, m := range members {
		if has := a.Instances[m.InstanceID]; has.Version.Compare(best) > 0 {
			id, best, ok = m.NodeID, has.Version, true
		}
	}
	return id, best, ok
}
