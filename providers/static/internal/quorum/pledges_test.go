package quorum

import (
	"encoding/json"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A line on which all was answered is there for the next request whenever that comes,
// and a request that is not answered ends it soon.
func TestLineStaysOpen(t *testing.T) {
	const timeout = time.Second
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		var answers atomic.Bool
		answers.Store(true)
		go func() { // the voter
			for lines := scanner(there); lines.Scan(); {
				var req promiseRequest
				if answers.Load() && (json.Unmarshal(lines.Bytes(), &req) != nil || writeLine(there, promiseReply{Round: req.Round}) != nil) {
					return
				}
			}
		}()
		l := &line{timeout: timeout, waiting: make(map[uint64]func(promiseReply))}
		l.open(here)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.read(here)
			_ = here.Close()
			l.end()
		}()
		round := uint64(0)
		ask := func() (answered, sent bool) {
			round++
			replied := make(chan promiseReply, 1)
			if !l.send(promiseRequest{Round: round}, func(r promiseReply) { replied <- r }) {
				return false, false
			}
			return (<-replied).Round == round, true
		}
		for _, pause := range []time.Duration{0, timeout - timeout/20, timeout, timeout + timeout/20, idleLine - timeout} {
			time.Sleep(pause)
			if answered, sent := ask(); !sent || !answered {
				t.Errorf("asked again after %v: sent %v, answered %v", pause, sent, answered)
			}
		}
		answers.Store(false)
		began := time.Now()
		if answered, sent := ask(); !sent || answered || time.Since(began) != timeout {
			t.Errorf("not answered: sent %v, answered %v after %v", sent, answered, time.Since(began))
		}
		<-ended
	})
}

// Nothing is asked on a line for long: it is closed.
func TestIdleLineEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		l := &line{timeout: time.Second, waiting: make(map[uint64]func(promiseReply))}
		l.conn = here
		l.await(idleLine)
		began := time.Now()
		l.read(here)
		if took := time.Since(began); took != idleLine {
			t.Errorf("ended after %v, want %v", took, idleLine)
		}
		if l.send(promiseRequest{}, func(promiseReply) {}) {
			t.Error("took a request after it had ended")
		}
	})
}
