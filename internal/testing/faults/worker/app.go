package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/node"
)

const (
	writeEvery  = 50 * time.Millisecond
	sampleEvery = 50 * time.Millisecond
	readEvery   = 500 * time.Millisecond
	callTimeout = time.Second
)

// application is what a user's program might be: while its node is master it writes to
// the register, and stops soon after it is told to.
type application struct {
	node     *node.Node
	notes    *os.File
	register string
	linger   time.Duration
	log      *slog.Logger

	client http.Client
	values atomic.Uint64
	done   sync.WaitGroup
}

func (a *application) start(ctx context.Context) {
	a.done.Go(func() { a.every(ctx, sampleEvery, a.sample) })
	a.done.Go(func() { a.every(ctx, readEvery, a.read) })
	a.done.Go(func() {
		earlier := ctx // of the term before
		first := true
		_ = a.node.WhileMaster(ctx, func(ctx context.Context, term node.Term) error {
			a.note(checker.Note{Kind: checker.WorkBegin, BootNS: now(), Term: uint64(term), EarlierDone: first || earlier.Err() != nil})
			first, earlier = false, ctx
			a.every(ctx, writeEvery, func() { a.write(term) })
			// It has been told to stop, and finishes what it was at.
			finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.linger)
			a.every(finishing, writeEvery, func() { a.write(term) })
			cancel()
			a.note(checker.Note{Kind: checker.WorkEnd, BootNS: now(), Term: uint64(term)})
			return nil
		})
	})
}

func (a *application) wait() { a.done.Wait() }

func (a *application) every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		do()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func now() int64 { return int64(clock.Now()) }

func (a *application) note(n checker.Note) {
	n.InstanceID = a.node.InstanceID()
	if err := writeLine(a.notes, n); err != nil {
		a.log.Error("note not written", "err", err)
	}
}

// sample asks the node whether it is master. The clock is read first.
func (a *application) sample() {
	at := now()
	if token, err := a.node.Check(); err == nil {
		a.note(checker.Note{Kind: checker.Sample, BootNS: at, Term: uint64(token.Term)})
	}
}

// write writes to the register, whatever the node says by now: that is for the
// register to refuse. The call is on record before it is made, and again with what it
// came to.
func (a *application) write(term node.Term) {
	n := checker.Note{Kind: checker.Write, Term: uint64(term), Value: fmt.Sprintf("%.8s-%d", a.node.InstanceID(), a.values.Add(1))}
	n.BootNS = now()
	a.note(n)
	if a.call(http.MethodPost, &n) {
		n.ReturnNS = now()
		a.note(n)
	}
}

func (a *application) read() {
	n := checker.Note{Kind: checker.Read, BootNS: now()}
	if a.call(http.MethodGet, &n) {
		n.ReturnNS = now()
		a.note(n)
	}
}

// call makes a call to the register, and fills in the answer. It reports whether there
// was one.
func (a *application) call(method string, n *checker.Note) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	body, err := json.Marshal(n)
	if err != nil {
		return false
	}
	request, err := http.NewRequestWithContext(ctx, method, a.register, bytes.NewReader(body))
	if err != nil {
		return false
	}
	response, err := a.client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	var answer checker.Note
	if response.StatusCode != http.StatusOK || json.NewDecoder(response.Body).Decode(&answer) != nil {
		return false
	}
	n.Accepted, n.Seen, n.SeenTerm = answer.Accepted, answer.Seen, answer.SeenTerm
	return true
}
