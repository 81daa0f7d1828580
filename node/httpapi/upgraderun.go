package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/upgrade"
)

// The step of a client, as of muster upgrade run, is one of the agent's Runner for as long as the
// client reads its stream. The Runner claims it and records its end; the work is that of a hold:
// the client has the grant by the stream, and says by PathDone that its command has ended, and how.
//
// Only a client that says so makes a step done. One that is gone while its command may run has
// interrupted it. That is recorded once the last deadline has passed that it knew: by then its
// command has been killed, so that the step may run again. Where nothing of the term was written to
// the stream, nothing has begun.
//
// A stream is good for one run: after an interruption it ends. It ends as well if the client names
// itself, and does not say that it goes on.

// outcome is what a client says has become of a step.
type outcome struct{ state, err string }

// The outcomes. Any other one is an interruption.
const (
	OutcomeDone        = "done"
	OutcomeFailed      = "failed"
	OutcomeInterrupted = "interrupted"
	OutcomeNotBegun    = "not_begun" // and never will
)

// runStep is the Run of a step.
func (h *hold) runStep(ctx context.Context, term node.Term) error {
	if done, _, _ := h.state(term); done { // it was interrupted, and the stream is about to end
		select {
		case <-h.lost:
		case <-ctx.Done():
		}
		return upgrade.ErrNotBegun
	}
	err := h.work(ctx, term)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.written != term:
		err = upgrade.ErrNotBegun
	case err != nil || h.done != term:
		err = fmt.Errorf("%w: %w", upgrade.ErrInterrupted, errHolderLost)
	case h.outcome.state == OutcomeDone:
		return nil
	case h.outcome.state == OutcomeFailed:
		return errors.New(cmp.Or(h.outcome.err, "no reason given"))
	case h.outcome.state == OutcomeNotBegun:
		err = upgrade.ErrNotBegun
	default:
		err = fmt.Errorf("%w: %s", upgrade.ErrInterrupted, cmp.Or(h.outcome.err, "no reason given"))
	}
	h.end()
	return err
}

// runUpgrade has a client run a step when it is the node's turn, and streams its grants, and the
// result at the end.
func (s *server) runUpgrade(w http.ResponseWriter, r *http.Request) {
	if status, err := s.options.operable(r); err != nil {
		routes.WriteError(w, status, err)
		return
	}
	query := r.URL.Query()
	name, version := query.Get("name"), upgrade.Version(query.Get("version"))
	switch _, err := s.node.Check(); {
	case s.options.Operator.Upgrades == nil:
		routes.WriteError(w, http.StatusUnprocessableEntity, errors.New("this program runs no steps of others; ask an agent"))
		return
	case errors.Is(err, node.ErrNoAuthority):
		routes.WriteError(w, http.StatusUnprocessableEntity, err) // it would wait without end
		return
	}
	end, ok := s.startStream(w)
	if !ok {
		return
	}
	defer end()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	h := s.holds.add(PathUpgradeRun+"?"+url.Values{"name": {name}, "version": {string(version)}}.Encode(), query.Get("holder"), cancel)
	if h == nil {
		routes.WriteError(w, http.StatusConflict, errors.New("another process has this step with this agent, or a hold has its name; end it"))
		return
	}
	h.bounded, h.end = true, cancel
	defer s.holds.remove(h)
	defer close(h.lost)
	remove, err := s.options.Operator.Upgrades.Add(upgrade.Step{
		Name: name, Version: version, Run: h.runStep,
		Restartable: query.Get("restartable") == "true", AfterAll: query.Get("after_all") == "true",
	})
	if err != nil {
		routes.WriteError(w, statusOfUpgrade(err), err)
		return
	}
	defer remove()
	messages := make(chan message)
	go s.sendStep(ctx, h, name, version, messages)
	s.stream(w, r.WithContext(ctx), messages)
}

// sendStep sends the grants of a step until its gate opens or fails, and the result then.
func (s *server) sendStep(ctx context.Context, h *hold, name string, version upgrade.Version, messages chan<- message) {
	defer close(messages)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	grants, result := make(chan message), make(chan error, 1)
	go s.sendGrants(ctx, h, 0, grants)
	go func() { result <- s.waitNotOutdated(ctx, name, version) }()
	for {
		var m message
		var last, open bool
		select {
		case m, open = <-grants:
			if !open {
				return
			}
		case err := <-result:
			m, last = resultMessage(err), true
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return
		}
		if last {
			return
		}
	}
}

// waitNotOutdated waits for a step, and returns an *upgrade.OutdatedError if the cluster has gone
// on to a version that all nodes must have.
func (s *server) waitNotOutdated(ctx context.Context, name string, version upgrade.Version) error {
	if err := upgrade.Wait(ctx, s.node.Store(), name, version); err != nil {
		return err
	}
	all, err := upgrade.Statuses(ctx, s.node.Store(), name)
	for _, done := range all {
		if done.State == upgrade.Done && done.AfterAll && done.Version.Compare(version) > 0 {
			return &upgrade.OutdatedError{Name: name, Have: version, Done: done.Version}
		}
	}
	return err
}
