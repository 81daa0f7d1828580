package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node/upgrade"
)

// UpgradeResult is what became of a step that a client waited for: the data of the one event of
// PathUpgradeWait, and of the last one of PathUpgradeRun, whose name is EventUpgrade.
type UpgradeResult struct {
	Done bool `json:"done"`
	// Error says why it is not done. If that is a step that has failed, or was interrupted and may
	// not run again, Failed is its record; otherwise it is missing.
	Error  string          `json:"error,omitempty"`
	Failed *upgrade.Status `json:"failed,omitempty"`
}

// EventUpgrade is the name of the events that have an UpgradeResult.
const EventUpgrade = "upgrade"

// resultOf is the result for an error of upgrade.Wait.
func resultOf(err error) UpgradeResult {
	if err == nil {
		return UpgradeResult{Done: true}
	}
	r := UpgradeResult{Error: err.Error()}
	if failed := (*upgrade.FailedError)(nil); errors.As(err, &failed) {
		r.Failed = &failed.Status
	}
	return r
}

// upgrades answers with what is recorded of each name.
func (s *server) upgrades(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
	defer cancel()
	all, err := upgrade.Statuses(ctx, s.node.Store())
	if err != nil {
		routes.WriteError(w, statusOfUpgrade(err), err)
		return
	}
	if all == nil {
		all = []upgrade.Status{} // an empty array, not null
	}
	routes.WriteJSON(w, http.StatusOK, all)
}

func statusOfUpgrade(err error) int {
	switch {
	case errors.Is(err, driver.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, driver.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, driver.ErrInvalid):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// amendUpgrade serves what an operator decides about a step that is not done, and answers with
// what is recorded then.
func (s *server) amendUpgrade(amend func(context.Context, upgrade.Ledger, string, upgrade.Version) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, version := r.URL.Query().Get("name"), upgrade.Version(r.URL.Query().Get("version"))
		s.operation(func(ctx context.Context) (any, error) {
			if err := amend(ctx, s.node.Store(), name, version); err != nil {
				return nil, hinted(err)
			}
			all, err := upgrade.Statuses(ctx, s.node.Store(), name)
			if err == nil && len(all) == 0 {
				err = fmt.Errorf("upgrade: %s %s: the record is gone again", name, version)
			}
			if err != nil {
				return nil, err
			}
			return all[0], nil
		}, statusOfUpgrade)(w, r)
	}
}

// hinted is an error about a step that is not the one which is recorded, with what to do: its name
// may be mistyped, or its record lost.
func hinted(err error) error {
	if errors.Is(err, driver.ErrNotFound) || errors.Is(err, driver.ErrConflict) {
		return fmt.Errorf("%w; muster upgrade status lists what is recorded", err)
	}
	return err
}

// resolveUpgrade is amendUpgrade by upgrade.Resolve, or by ResolveLost if the query says so.
func (s *server) resolveUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("lost") == "true" {
		s.amendUpgrade(upgrade.ResolveLost)(w, r)
		return
	}
	s.amendUpgrade(func(ctx context.Context, l upgrade.Ledger, name string, v upgrade.Version) error {
		err := upgrade.Resolve(ctx, l, name, v)
		if !errors.Is(err, driver.ErrNotFound) && !errors.Is(err, driver.ErrConflict) {
			return err
		}
		if all, _ := upgrade.Statuses(ctx, l, name); len(all) == 0 || all[0].Version.Compare(v) < 0 {
			err = fmt.Errorf("%w; if its record was lost, resolve it with --lost, or lost=true", err)
		}
		return err
	})(w, r)
}

// waitUpgrade streams one event, once the step is done or has failed, the time of the query is
// over, or the node has ended.
func (s *server) waitUpgrade(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	name, version := query.Get("name"), upgrade.Version(query.Get("version"))
	if err := upgrade.Validate(name, version); err != nil {
		routes.WriteError(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if text := query.Get("timeout"); text != "" {
		timeout, err := time.ParseDuration(text)
		if err != nil || timeout <= 0 {
			routes.WriteError(w, http.StatusBadRequest, fmt.Errorf("timeout: %q: not a duration; write one such as 90s", text))
			return
		}
		timer := time.AfterFunc(timeout, func() { cancel(fmt.Errorf("waited for %v", timeout)) })
		defer timer.Stop()
	}
	end, ok := s.startStream(w)
	if !ok {
		return
	}
	defer end()
	messages := make(chan message)
	go func() {
		defer close(messages)
		err := upgrade.Wait(ctx, s.node.Store(), name, version)
		select {
		case messages <- resultMessage(err):
		case <-r.Context().Done():
		}
	}()
	s.stream(w, r, messages)
}

func resultMessage(err error) message {
	return message{EventUpgrade, func() any { return resultOf(err) }}
}
