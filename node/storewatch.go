package node

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/internal/within"
)

// A provider that does not report changes of its records is read every storePoll. So that a
// change is seen sooner, the node that wrote prompts the others by gossip to read. A prompt is
// no proof of anything, and may be lost, late or forged: all that comes of it is a read, at
// most one in promptEvery for each watch.
//
// What does not change is read ever more rarely, down to each storePollIdle: a lost prompt is rare,
// and in a large cluster each node reads.
const (
	storePoll     = 5 * time.Second
	storePollIdle = time.Minute
	promptEvery   = 100 * time.Millisecond
)

// promptKey lets a later prompt take the place of an earlier one that is still to be sent.
const promptKey = "store"

// prompts are the news that records were written.
type prompts struct {
	written chan struct{}       // this node has written; holds one element
	news    watch.Value[uint64] // counts the prompts, of this node and of others
	count   uint64              // of news; read and written by one goroutine
	heard   chan struct{}       // another node has written; holds one element
}

func newPrompts() *prompts {
	return &prompts{written: make(chan struct{}, 1), heard: make(chan struct{}, 1)}
}

func (p *prompts) write() { signal(p.written) }
func (p *prompts) hear()  { signal(p.heard) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is pending
	}
}

// run hands prompts on until ctx ends: to the watches of this node, and those of its own
// writes to the other members. Many writes make one prompt.
func (p *prompts) run(ctx context.Context, broadcast func()) {
	for {
		select {
		case <-p.written:
			broadcast()
		case <-p.heard:
		case <-ctx.Done():
			return
		}
		p.count++
		p.news.Store(p.count)
		if backoff.Sleep(ctx, promptEvery) != nil {
			return
		}
	}
}

// wirePrompt is a prompt as it travels: an announcement of no mastership.
type wirePrompt struct {
	V     int  `json:"v"`
	Store bool `json:"store"`
}

func (n *Node) prompt() {
	message, _ := json.Marshal(wirePrompt{V: 1, Store: true}) // which cannot fail
	if err := n.members.Broadcast(promptKey, message); err != nil {
		n.log.Debug("prompt not sent", "error", err)
	}
}

// isPrompt reports whether a broadcast says that records were written.
func isPrompt(message []byte) bool {
	var w wirePrompt
	return json.Unmarshal(message, &w) == nil && w.V == 1 && w.Store
}

// Watch implements Store.
func (s *store) Watch(ctx context.Context, prefix string) iter.Seq2[[]Record, error] {
	return func(yield func([]Record, error) bool) {
		if _, cancel, err := s.begin(ctx); err != nil {
			yield(nil, err)
			return
		} else {
			cancel()
		}
		ctx, cancel := within.Both(ctx, s.node.ctx)
		defer cancel()
		w := watching{store: s, prefix: prefix, yield: yield, wait: backoff.Backoff{Max: storePoll}}
		more := w.follow(ctx)
		for more && ctx.Err() == nil {
			more = w.poll(ctx)
		}
		if more && s.node.ctx.Err() != nil {
			yield(nil, ErrStopped)
		}
	}
}

// watching is one Watch under way.
type watching struct {
	*store
	prefix string
	yield  func([]Record, error) bool

	last  []Record
	known bool // there is a last
	wait  backoff.Backoff
}

// news yields what is new, and reports whether the consumer wants more. It yields nothing once
// ctx has ended.
func (w *watching) news(ctx context.Context, records []Record, err error) bool {
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil:
		w.known = false // that it is over is news, too
		return w.yield(nil, err)
	}
	w.wait.Reset()
	if w.known && slices.EqualFunc(records, w.last, func(a, b Record) bool { return a.Key == b.Key && a.Revision == b.Revision }) {
		return true
	}
	w.known, w.last = true, records
	return w.yield(slices.Clone(records), nil)
}

// follow yields what the provider reports, until ctx ends or it says that it cannot. It reports
// whether the consumer wants more.
func (w *watching) follow(ctx context.Context) (poll bool) {
	for ctx.Err() == nil {
		for records, err := range w.records.WatchRecords(ctx, w.prefix) {
			if errors.Is(err, driver.ErrUnsupported) {
				return true
			}
			if !w.news(ctx, records, err) {
				return false
			}
		}
		_ = w.wait.Wait(ctx)
	}
	return true
}

// poll reads, and again after each prompt, until ctx ends. It reports whether the consumer
// wants more.
func (w *watching) poll(ctx context.Context) bool {
	prompts := make(chan struct{}, 1)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range w.prompts.news.Watch(inner) {
			signal(prompts)
		}
	}()
	defer func() { cancel(); <-ended }()
	interval := storePoll
	for ctx.Err() == nil {
		records, err := w.read(ctx)
		if !w.news(ctx, records, err) {
			return false
		}
		again := interval
		if err != nil {
			again, interval = w.wait.Next(), storePoll
		}
		timer := time.NewTimer(again)
		select {
		case <-timer.C:
			interval = min(2*interval, storePollIdle)
		case <-prompts:
			interval = storePoll
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return true
}

func (w *watching) read(ctx context.Context) ([]Record, error) {
	ctx, cancel := context.WithTimeout(ctx, StoreTimeout)
	defer cancel()
	return w.records.Records(ctx, w.prefix)
}
