package mastership

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// FuzzHearsay holds of whatever is announced to a master and to a follower that run: the
// master stays, in its term and its cluster; the follower names nobody else for long; and the
// next mastership comes in time, with a term that no message has used up.
func FuzzHearsay(f *testing.F) {
	f.Add(uint64(1)<<62, "", "x", "x", true, uint64(1), int64(1<<40), []byte(`{"v":1,"term":4611686018427387904,"active":false}`))
	f.Add(uint64(2), "id", "x", "x", true, uint64(math.MaxUint64), int64(0), []byte(`{"v":1,"term":2,"cluster_id":"id","holder":{"instance_id":"a"},"active":false}`))
	f.Add(uint64(1), "foreign", "a", "a", false, uint64(math.MaxUint64), int64(-1), []byte(`{"v":1,"term":1,"cluster_id":"foreign"}`))
	f.Add(uint64(1)<<32, "id", "b", "b", true, uint64(0), int64(300_000), []byte(`{}`))
	f.Fuzz(func(t *testing.T, term uint64, clusterID, nodeID, instanceID string, active bool, seq uint64, validMS int64, raw []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := newFakeStore(newFakeClock(), ttl)
			s.state.ClusterID = "id"
			announced := func(c *Config) { c.Announced = true }
			a, b := run(t, s, "a", announced), run(t, s, "b", announced)
			b.SetConditions(Conditions{Eligible: true}) // later
			wait.Virtual(t, "a is master", 5*time.Second, a.IsMaster)
			token, _ := a.Check()
			gossip, mute := context.WithCancel(t.Context())
			defer mute()
			go func() {
				for an := range a.Announcements(gossip) {
					b.Learn(an)
				}
			}()
			hostile := []Announcement{{
				Term: driver.Term(term), ClusterID: clusterID, Active: active, Seq: seq, From: nodeID,
				ValidFor: min(max(time.Duration(validMS%1e9)*time.Millisecond, 0), maxAnnouncedValidity),
				Holder:   driver.Holder{NodeID: nodeID, InstanceID: instanceID},
			}}
			if an, err := DecodeAnnouncement(raw); err == nil {
				hostile = append(hostile, an)
			}
			say := func() {
				for _, an := range hostile {
					a.Learn(an)
					b.Learn(an)
				}
			}
			say()
			named := false
			for range 6 * 5 {
				time.Sleep(ttl / 5)
				say()
				synctest.Wait()
				if err := token.Check(); err != nil {
					t.Fatalf("no longer master: %v", err)
				}
				m := b.Status().Master
				named = m != nil && m.InstanceID == "a"
			}
			if st := a.Status(); st.ClusterID != "id" || st.Alarm != nil || st.MaxTerm != token.Term {
				t.Errorf("%+v after hearsay", st)
			}
			if st := b.Status(); !named {
				t.Errorf("b names %v, waiting for %q", st.Master, st.WaitingFor)
			}
			b.SetConditions(ready)
			_ = a.stop()
			say()
			wait.Virtual(t, "b is master", forgottenWait+3*ttl, func() bool { say(); return b.IsMaster() })
			if next, err := b.Check(); err != nil && !errors.Is(err, ErrNoMaster) || next.Term > token.Term+4*(heardStep+1) || next.ClusterID != "id" {
				t.Errorf("next is term %d of %s, %v", next.Term, next.ClusterID, err)
			}
		})
	})
}
