package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/internal/claim"
)

// Step is one step of an upgrade. A name has one step per version.
type Step struct {
	// Name is what is upgraded, such as schema. It has no slash and no spaces.
	Name string
	// Version is the one that this step leads to, from the one before.
	Version Version
	// Run does it. Its context ends with the mastership, and then Run has the drain timeout of
	// the node (1 s by default) to return: while one does not return, this node runs no other step,
	// also if it is master again. The term is to be attached to what it changes. An error that
	// wraps ErrInterrupted is an interruption, and any other a failure, unless it wraps
	// ErrNotBegun.
	Run func(ctx context.Context, term node.Term) error
	// Restartable says that Run may be run again after it was interrupted in the middle, by a
	// crash or by a change of master.
	Restartable bool
	// AfterAll has the step wait until every member in sight has announced that it has it: until
	// all run the code that can live with what it changes. A node that starts later without it is
	// refused by its own Run, with an *OutdatedError.
	AfterAll bool
}

// ErrInterrupted is what an error of Step.Run wraps if the step was stopped, or if it is not known
// what became of it, although the mastership goes on: as where it ran in a process that is gone.
var ErrInterrupted = claim.ErrInterrupted

// ErrNotBegun is what an error of Step.Run wraps if it has begun nothing, and that is certain: the
// step is left to the node that claims it next, which may be this one.
var ErrNotBegun = claim.ErrNotBegun

// validate returns the steps by name, in order, or what is wrong with them.
func validate(steps []Step) (map[string][]Step, error) {
	byName := make(map[string][]Step)
	for _, s := range steps {
		err := validateName(s.Name)
		if err == nil {
			err = s.Version.validate()
		}
		if before := byName[s.Name]; err == nil && len(before) > 0 {
			if last := before[len(before)-1].Version; last.Compare(s.Version) >= 0 {
				err = fmt.Errorf("version %s comes after %s: give the steps in ascending order, each version once", s.Version, last)
			}
		}
		if err == nil && s.Run == nil {
			err = errors.New("Run is nil")
		}
		if err != nil {
			return nil, fmt.Errorf("upgrade: step %q: %w: %w", s.Name, driver.ErrInvalid, err)
		}
		byName[s.Name] = append(byName[s.Name], s)
	}
	return byName, nil
}

func validateName(name string) error {
	if err := driver.ValidateName(name); err != nil {
		return err
	}
	if strings.Contains(name, "/") || strings.Trim(name, ".") == "" {
		return fmt.Errorf("name %q: want one without slashes, and not of dots alone", name)
	}
	return nil
}

const (
	stepsPrefix = "upgrade/steps/"
	nodesPrefix = "upgrade/nodes/"
)

// State is what has become of a step.
type State string

// The states. Free is that of a step which Retry has been asked for. Unreadable is that of a record
// which this version cannot read: nothing of that name runs before Resolve.
const (
	Free        = State(claim.Free)
	Running     = State(claim.Running)
	Done        = State(claim.Done)
	Failed      = State(claim.Failed)
	Interrupted = State(claim.Interrupted)
	Unreadable  = State("unreadable")
)

// Status is what is recorded of one name: its latest step. Those before it are done.
type Status struct {
	Name    string  `json:"name"`
	Version Version `json:"version"`
	State   State   `json:"state"`
	// NodeID, InstanceID and Term are those of the claim.
	NodeID     string    `json:"node_id,omitempty"`
	InstanceID string    `json:"instance_id,omitempty"`
	Term       node.Term `json:"term,omitempty"`
	// Claimed and Ended are wall times of the nodes that wrote them.
	Claimed time.Time `json:"claimed,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Runs counts how often the step was begun.
	Runs  int    `json:"runs,omitempty"`
	Error string `json:"error,omitempty"`
	// Restartable and AfterAll are those of the Step. With a Transactor every step is restartable.
	Restartable bool `json:"restartable,omitempty"`
	AfterAll    bool `json:"after_all,omitempty"`
}

// details is the Data of a record.
type details struct {
	Restartable bool `json:"restartable,omitempty"`
	AfterAll    bool `json:"after_all,omitempty"`
}

func statusOf(name string, r claim.Record) Status {
	var d details
	_ = json.Unmarshal(r.Data, &d) // what cannot be read says neither
	return Status{
		Name: name, Version: Version(r.What), State: State(r.State),
		NodeID: r.NodeID, InstanceID: r.InstanceID, Term: r.Term,
		Claimed: r.Claimed, Ended: r.Ended, Runs: r.Runs, Error: r.Error,
		Restartable: d.Restartable, AfterAll: d.AfterAll,
	}
}

// recorded reads what is recorded of name. A record whose version is none is like one that cannot
// be read: its error wraps discovery.ErrInvalid, and nothing is concluded from it.
func recorded(ctx context.Context, l Ledger, name string) (Status, bool, error) {
	r, found, err := claim.Get(ctx, l, stepsPrefix+name)
	if err == nil && found {
		err = validateRecord(name, r)
	}
	return statusOf(name, r), found, err
}

func validateRecord(name string, r claim.Record) error {
	if err := Version(r.What).validate(); err != nil {
		return fmt.Errorf("upgrade: record %s%s: %w: %w", stepsPrefix, name, driver.ErrInvalid, err)
	}
	return nil
}

// maxProblem bounds the text about a record that cannot be read, which may quote all of it.
const maxProblem = 256

// listed is what a record says. One that cannot be read hides no other.
func listed(record driver.Record) Status {
	name := strings.TrimPrefix(record.Key, stepsPrefix)
	r, err := claim.Parse(record.Key, record.Value)
	if err == nil {
		err = validateRecord(name, r)
	}
	if err != nil {
		return Status{Name: name, State: Unreadable, Error: claim.Cut(err.Error(), maxProblem)}
	}
	return statusOf(name, r)
}

// reached reports whether v is done. What has no version has reached none.
func (s Status) reached(v Version) bool {
	if s.Version.validate() != nil {
		return false
	}
	c := s.Version.Compare(v)
	return c > 0 || c == 0 && s.State == Done
}

// Stuck reports whether nothing of that name goes on before an operator has decided.
func (s Status) Stuck() bool {
	return s.State == Failed || s.State == Unreadable || s.State == Interrupted && !s.Restartable
}

// FailedError says that a step has failed, or was interrupted and may not run again. It ends
// with Retry or Resolve.
type FailedError struct{ Status }

// Error names the step, and what an operator can do.
func (e *FailedError) Error() string {
	return fmt.Sprintf("upgrade: %s %s %s on node %s in term %d: %s; %s",
		e.Name, e.Version, e.State, e.NodeID, e.Term, e.Status.Error, e.Hint())
}

// Hint says how it goes on.
func (e *FailedError) Hint() string {
	return "run it again with Retry, or, where it is known to be done, say so with Resolve"
}

// OutdatedError says that this node lacks a step that is done, and that all nodes must have.
type OutdatedError struct {
	Name       string
	Have, Done Version
}

func (e *OutdatedError) Error() string {
	return fmt.Sprintf("upgrade: %s: this node has %s, and the cluster has gone on to %s: start a newer version of the program",
		e.Name, e.Have, e.Done)
}
