package cron

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// slowSchedule answers once it may.
type slowSchedule chan struct{}

func (s slowSchedule) Next(t time.Time) time.Time { <-s; return t.Add(time.Second) }

// TestNothingStartsAfterTheMastership: a schedule that answers when the mastership is over, while
// another run is still waited for, starts no run.
func TestNothingStartsAfterTheMastership(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, s := &loop{ended: make(chan func())}, make(slowSchedule)
		ctx, cancel := context.WithCancel(t.Context())
		answers := 0
		for range 100 { // whether the loop takes the answer at all is by chance
			e := &entry{task: task{Job: Job{Name: "j", Schedule: s}}}
			l.ask(ctx, e, func() (func(), error) {
				e.Schedule.Next(time.Now())
				return func() { answers++ }, nil
			})
		}
		cancel()
		go func() {
			for end := range l.ended {
				end()
			}
		}()
		synctest.Wait()
		close(s)
		synctest.Wait()
		close(l.ended)
		if answers > 0 {
			t.Errorf("%d of 100 answers were taken after the end", answers)
		}
	})
}
