package claim_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/internal/claim"
)

func openStore(t *testing.T, d driver.Driver) driver.Store {
	t.Helper()
	a, err := d.(driver.Authorizer).OpenAuthority(t.Context(), driver.AuthorityOptions{
		Cluster: "test", Self: driver.Holder{NodeID: "a", InstanceID: "a1", Addr: "127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(context.Background()) })
	return a.(driver.Store)
}

func attempt(l claim.Ledger, term driver.Term, work func(context.Context) error) claim.Attempt {
	return claim.Attempt{
		Ledger: l, Key: "k", Goal: claim.Goal{What: "1", Compare: strings.Compare},
		Owner:  claim.Owner{ClusterID: "c", Term: term, NodeID: "a", InstanceID: "a1"},
		Logger: slog.New(slog.DiscardHandler),
		Work:   func(ctx context.Context, _ claim.Record) error { return work(ctx) },
	}
}

func TestDoRunsOnce(t *testing.T) {
	l := openStore(t, memory.New().Driver())
	runs := 0
	for term := range driver.Term(3) {
		r, err := claim.Do(t.Context(), attempt(l, term+1, func(context.Context) error { runs++; return nil }))
		if err != nil || r.State != claim.Done || r.Term != 1 {
			t.Fatalf("term %d: %+v, %v", term+1, r, err)
		}
	}
	if runs != 1 {
		t.Errorf("it ran %d times", runs)
	}
}

func TestDoRecordsFailuresAndPanics(t *testing.T) {
	for name, work := range map[string]func(context.Context) error{
		"boom": func(context.Context) error { return errors.New("boom") },
		"bang": func(context.Context) error { panic("bang") },
	} {
		l := openStore(t, memory.New().Driver())
		r, err := claim.Do(t.Context(), attempt(l, 1, work))
		if err != nil || r.State != claim.Failed || !strings.Contains(r.Error, name) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// Every write is made, and no answer to one comes: what is recorded is found by its token.
func TestDoFindsWhatItsLostAnswersDid(t *testing.T) {
	server := memory.New()
	l := openStore(t, server.Driver())
	server.LoseResponses(true)
	runs := 0
	r, err := claim.Do(t.Context(), attempt(l, 1, func(context.Context) error { runs++; return nil }))
	if err != nil || r.State != claim.Done || r.Runs != 1 || runs != 1 {
		t.Errorf("%+v, %v, %d runs", r, err, runs)
	}
}

// The store is away while the work ends: the end is recorded once it is back.
func TestDoOutlastsALedgerThatIsAway(t *testing.T) {
	server := memory.New()
	l := openStore(t, server.Driver())
	r, err := claim.Do(t.Context(), attempt(l, 1, func(context.Context) error {
		server.Fail(driver.ErrUnavailable)
		time.AfterFunc(300*time.Millisecond, func() { server.Fail(nil) })
		return nil
	}))
	if err != nil || r.State != claim.Done {
		t.Errorf("%+v, %v", r, err)
	}
}

// A node of a later term takes over what this one is still at: then this one's end is not
// recorded any more.
func TestDoDoesNotRecordAnEndOverALaterClaim(t *testing.T) {
	l := openStore(t, memory.New().Driver())
	_, err := claim.Do(t.Context(), attempt(l, 1, func(context.Context) error {
		next := attempt(l, 2, func(context.Context) error { return nil })
		next.Goal.Restart = true
		next.Owner.InstanceID = "b1"
		if r, err := claim.Do(t.Context(), next); err != nil || r.State != claim.Done {
			t.Errorf("the later one: %+v, %v", r, err)
		}
		return nil
	}))
	if r, _, _ := claim.Get(t.Context(), l, "k"); r.Term != 2 || r.State != claim.Done {
		t.Errorf("recorded: %+v", r)
	}
	if !errors.Is(err, claim.ErrSuperseded) {
		t.Errorf("the earlier one: %v", err)
	}
	if _, err := claim.Do(t.Context(), attempt(l, 1, nil)); !errors.Is(err, claim.ErrSuperseded) {
		t.Errorf("an earlier term is told: %v", err)
	}
}

// The mastership ends in the middle of the work: that is recorded as an interruption.
func TestDoRecordsAnInterruption(t *testing.T) {
	l := openStore(t, memory.New().Driver())
	ctx, cancel := context.WithCancel(t.Context())
	r, err := claim.Do(ctx, attempt(l, 1, func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}))
	if err != nil || r.State != claim.Interrupted {
		t.Errorf("%+v, %v", r, err)
	}
}

// What cannot be read is no empty record, and an operator can put another in its place.
func TestUnreadableRecord(t *testing.T) {
	l := openStore(t, memory.New().Driver())
	for _, value := range []string{"", "{", `{"what":"1","state":"later"}`, "[]"} {
		raw, err := l.Get(t.Context(), "k")
		if err != nil && !errors.Is(err, driver.ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := l.Set(t.Context(), "k", []byte(value), raw.Revision); err != nil {
			t.Fatal(err)
		}
		if _, err := claim.Do(t.Context(), attempt(l, 1, nil)); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%q: %v", value, err)
		}
	}
	err := claim.Amend(t.Context(), l, "k", func(r claim.Record, found bool) (claim.Record, error) {
		if found {
			t.Error("it was found")
		}
		return claim.Record{What: "1", State: claim.Done}, nil
	})
	if r, _, getErr := claim.Get(t.Context(), l, "k"); err != nil || getErr != nil || r.State != claim.Done {
		t.Errorf("%+v, %v, %v", r, err, getErr)
	}
}

// A ledger that reports no changes is read now and then.
type plain struct{ claim.Ledger }

func TestChanges(t *testing.T) {
	store := openStore(t, memory.New().Driver())
	for name, l := range map[string]claim.Ledger{"reported": store, "polled": plain{store}} {
		t.Run(name, func(t *testing.T) {
			ctx := wait.Context(t)
			seen := false
			for range claim.Changes(ctx, l, name) {
				if _, found, _ := claim.Get(ctx, l, name); found {
					seen = true
					break
				}
				err := claim.Amend(ctx, l, name, func(claim.Record, bool) (claim.Record, error) {
					return claim.Record{State: claim.Free}, nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if !seen {
				t.Error("the change was not seen")
			}
		})
	}
}

// hangs is a ledger that does not answer.
type hangs struct{ claim.Ledger }

func (hangs) Get(ctx context.Context, _ string) (driver.Record, error) {
	<-ctx.Done()
	return driver.Record{}, context.Cause(ctx)
}

// A ledger that hangs holds up neither who reads nor who decides.
func TestCallsOfALedgerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if _, _, err := claim.Get(t.Context(), hangs{}, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get: %v", err)
		}
		err := claim.Amend(t.Context(), hangs{}, "k", func(r claim.Record, _ bool) (claim.Record, error) { return r, nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Amend: %v", err)
		}
	})
}

// after is a ledger that calls f once a claim is recorded, and before its answer comes.
type after struct {
	claim.Ledger
	f func()
}

func (a after) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	rev, err := a.Ledger.Set(ctx, key, value, prev)
	if err == nil && strings.Contains(string(value), `"state":"running"`) {
		a.f()
	}
	return rev, err
}

// The answer to a claim comes when the mastership has ended, or the work is not wanted any more,
// or the work says that it has not begun: what was recorded before is recorded again, and the next
// node can claim it.
func TestDoGivesBackWhatDidNotBegin(t *testing.T) {
	late := errors.New("too late")
	for name, before := range map[string]*claim.Record{
		"nothing": nil,
		"done":    {What: "0", State: claim.Done, Owner: claim.Owner{ClusterID: "c", Term: 1, NodeID: "z"}, Token: "x", Runs: 2, Data: []byte(`{"n":1}`)},
		"free":    {What: "1", State: claim.Free, Token: "x", Data: []byte(`{"n":1}`)},
	} {
		for _, want := range []error{claim.ErrSuperseded, late, claim.ErrNotBegun} {
			l := openStore(t, memory.New().Driver())
			if before != nil {
				value, err := json.Marshal(before)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := l.Set(t.Context(), "k", value, 0); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			var unwanted error
			a := attempt(after{l, func() {
				switch want {
				case claim.ErrSuperseded:
					cancel()
				case late:
					unwanted = late
				}
			}}, 2, func(context.Context) error {
				if want != claim.ErrNotBegun {
					t.Error("it ran")
				}
				return want
			})
			a.Goal.OnClaim = func(claim.Record) json.RawMessage { return []byte(`{"n":2}`) }
			a.Wanted = func() error { return unwanted }
			if _, err := claim.Do(ctx, a); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			cancel()
			got, _, err := claim.Get(t.Context(), l, "k")
			if err != nil {
				t.Fatal(err)
			}
			restored := claim.Record{What: "1", State: claim.Free}
			if before != nil {
				restored = *before
			}
			if !reflect.DeepEqual(got, restored) {
				t.Errorf("%s: %+v, want %+v", name, got, restored)
			}
			next := attempt(l, 3, func(context.Context) error { return nil })
			if r, err := claim.Do(t.Context(), next); err != nil || r.State != claim.Done || r.What != "1" || r.Runs != 1 {
				t.Errorf("%s: the next one: %+v, %v", name, r, err)
			}
		}
	}
}

// Nobody waits for a claim for longer than it is wanted, and each failure is reported.
func TestDoStopsWhenItIsNotWantedAnyMore(t *testing.T) {
	l, late := openStore(t, memory.New().Driver()), errors.New("too late")
	failures := 0
	a := attempt(refusing{l}, 1, func(context.Context) error { t.Error("it ran"); return nil })
	a.Failing = func(error) { failures++ }
	a.Wanted = func() error {
		if failures < 3 {
			return nil
		}
		return late
	}
	if _, err := claim.Do(t.Context(), a); !errors.Is(err, late) || failures != 3 {
		t.Errorf("%v after %d failures", err, failures)
	}
}

// refusing is a ledger that can be read alone.
type refusing struct{ claim.Ledger }

func (refusing) Set(context.Context, string, []byte, driver.Revision) (driver.Revision, error) {
	return 0, driver.ErrUnavailable
}

// What was given back before anything was ever begun is no obstacle, to whatever comes next.
func TestDoAfterWhatWasNeverBegun(t *testing.T) {
	l := openStore(t, memory.New().Driver())
	a := attempt(l, 1, func(context.Context) error { return claim.ErrNotBegun })
	if _, err := claim.Do(t.Context(), a); !errors.Is(err, claim.ErrNotBegun) {
		t.Fatal(err)
	}
	next := attempt(l, 2, func(context.Context) error { return nil })
	next.Goal.What = "2"
	if r, err := claim.Do(t.Context(), next); err != nil || r.State != claim.Done || r.What != "2" || r.Runs != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
