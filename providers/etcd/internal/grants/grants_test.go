package grants_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/etcd/internal/grants"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// FuzzState holds of anything that stands in the keys of mastership: it is an error, or
// a term that can be raised.
func FuzzState(f *testing.F) {
	for _, value := range []string{
		`{"node_id":"a","instance_id":"i1","addr":"10.0.0.5:7946","app_addrs":{"http":"10.0.0.5:80"},"term":7}`,
		`{"instance_id":"i1","term":18446744073709551615}`, `7`, `18446744073709551615`, `-1`, `null`, ``, `c1`,
	} {
		for name := range 3 {
			f.Add(name, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, name int, value []byte) {
		var s grants.State
		if err := s.Parse(grants.Keys()[uint(name)%3], value); err != nil {
			return
		}
		if s.Master != nil && (s.Master.InstanceID == "" || s.Master.Term > s.Term) {
			t.Fatalf("%q is master %+v, and the term %d", value, s.Master, s.Term)
		}
		next, err := s.Next(0)
		if err != nil || next <= s.Term {
			t.Fatalf("%q is term %d, after which comes %d, %v", value, s.Term, next, err)
		}
	})
}

func TestNext(t *testing.T) {
	var s grants.State
	for name, value := range map[string]string{grants.TermKey: "7", grants.MasterKey: `{"instance_id":"i1","term":9}`} {
		if err := s.Parse(name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	for heardOf, want := range map[driver.Term]driver.Term{0: 10, 9: 10, 12: 13, driver.MaxTerm: driver.MaxTerm + 1} {
		if next, err := s.Next(heardOf); err != nil || next != want {
			t.Errorf("after %d comes %d, %v, want %d", heardOf, next, err, want)
		}
	}
	if next, err := s.Next(driver.MaxTerm + 1); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("after what nobody can have granted comes %d, %v", next, err)
	}
}

// What is about to be ended is not given again; what was given since is.
func TestActive(t *testing.T) {
	var last grants.Active[string]
	if g, _, ok := last.Get(); ok {
		t.Errorf("at first there is %+v", g)
	}
	last.Set(driver.Grant{Term: 1, Token: "one"})
	last.Set(driver.Grant{Term: 2, Token: "two"})
	last.Clear("one")
	if g, token, ok := last.Get(); !ok || token != "two" || g.Term != 2 {
		t.Errorf("there is %+v with %q, %v; want that of term 2", g, token, ok)
	}
	last.Clear("two")
	if g, _, ok := last.Get(); ok {
		t.Errorf("there is still %+v", g)
	}
}

func TestLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grants.NewLifetime()
		bound, cancel := l.Bind(t.Context())
		defer cancel()
		ended := make(chan error, 2)
		l.Go(time.Second, func(ctx context.Context) {
			<-ctx.Done()
			ended <- ctx.Err()
		})
		time.Sleep(2 * time.Second)
		release := make(chan struct{})
		l.Go(time.Minute, func(ctx context.Context) {
			<-ctx.Done()
			ended <- ctx.Err()
			<-release
		})
		if l.Ended() || bound.Err() != nil {
			t.Errorf("over %v, what is bound %v, before Close", l.Ended(), bound.Err())
		}
		brief, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := l.Close(brief); !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close while something hangs: %v", err)
		}
		close(release)
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if !l.Ended() || bound.Err() == nil {
			t.Errorf("over %v, what is bound %v, after Close", l.Ended(), bound.Err())
		}
		if first, second := <-ended, <-ended; first != context.DeadlineExceeded || second != context.Canceled {
			t.Errorf("what was done later ended with %v and %v", first, second)
		}
		l.Go(time.Minute, func(context.Context) { t.Error("something is done after Close") })
		synctest.Wait()
	})
}
