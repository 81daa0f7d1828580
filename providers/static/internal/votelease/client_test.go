package votelease

import (
	"bufio"
	"encoding/json"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A connection on which all was answered takes the next request whenever that comes, and a
// request that is not answered ends it soon.
func TestConnStaysOpen(t *testing.T) {
	const timeout = time.Second
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		var answers atomic.Bool
		answers.Store(true)
		go func() { // the voter
			for lines := scanner(there); lines.Scan(); {
				var req Request
				if answers.Load() && (json.Unmarshal(lines.Bytes(), &req) != nil || writeLine(there, Reply{Round: req.Round}) != nil) {
					return
				}
			}
		}()
		l := &clientConn{timeout: timeout, waiting: make(map[uint64]func(Reply))}
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
			replied := make(chan Reply, 1)
			if !l.send(Request{Round: round}, func(r Reply) { replied <- r }) {
				return false, false
			}
			return (<-replied).Round == round, true
		}
		for _, pause := range []time.Duration{0, timeout - timeout/20, timeout, timeout + timeout/20, idleTimeout - timeout} {
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

// A connection without requests is closed in time.
func TestIdleConnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		l := &clientConn{timeout: time.Second, waiting: make(map[uint64]func(Reply))}
		l.conn = here
		l.await(idleTimeout)
		began := time.Now()
		l.read(here)
		if took := time.Since(began); took != idleTimeout {
			t.Errorf("ended after %v, want %v", took, idleTimeout)
		}
		if l.send(Request{}, func(Reply) {}) {
			t.Error("took a request after it had ended")
		}
	})
}

// FuzzRequests: requests on a connection are answered line by line, or end the connection.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"to":"a","leader":"b","start":"s","raft_term":2,"round":1,"for_ns":1000}` + "\n" + `{"round":2,"withdraw":true,"released":1}` + "\n"))
	f.Add([]byte("{}\n{"))
	f.Add([]byte("null\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		asked := 0
		p := &client{timeout: time.Minute, answer: func(Request) Reply { asked++; return Reply{Given: true} }}
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); p.serve(theirs) }()
		go func() {
			_, _ = ours.Write(in)
			_, _ = ours.Write([]byte("\nthe end\n"))
		}()
		answered := 0
		for lines := bufio.NewScanner(ours); lines.Scan(); answered++ {
			var reply Reply
			if err := json.Unmarshal(lines.Bytes(), &reply); err != nil {
				t.Fatal(err)
			}
		}
		_ = ours.Close()
		<-done
		if asked != answered {
			t.Fatalf("%d asked, %d answered", asked, answered)
		}
	})
}
