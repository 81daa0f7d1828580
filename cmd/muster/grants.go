package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/supervise"
	"github.com/musterhq/muster/node/httpapi"
)

// streamSilence is how long nothing may come from a stream of an agent, which writes a comment
// every 15 s.
const streamSilence = 40 * time.Second

// How often an agent is told that this process goes on, and how long it has to answer. It takes
// us for lost after 10 s.
const (
	aliveInterval = 3 * time.Second
	aliveTimeout  = 2 * time.Second
)

// grants are those of the node of an agent, which counts this process in as who does the master's
// work.
type grants struct {
	client apiClient
	path   string // of the stream, with its query
	// result takes the last event of a step. Nil: there is none.
	result func(httpapi.UpgradeResult)
	alive  bool         // the agent expects to hear that this process goes on
	hold   atomic.Value // the id of the stream that was opened last, a string
}

// Follow implements supervise.Source.
func (g *grants) Follow(ctx context.Context, update func(supervise.Grant)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(streamSilence, func() { cancel(errSilence) })
	defer silence.Stop()
	response, err := g.client.open(ctx, http.MethodPost, g.path, "text/event-stream")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		return refusal{response.StatusCode, g.client.refused(response, g.path, body)}
	}
	if g.alive {
		go g.sayAlive(ctx)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEvent)
	event := ""
	for lines.Scan() {
		silence.Reset(streamSilence)
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if event == httpapi.EventUpgrade && g.result != nil {
			return g.finish(ctx, data)
		}
		var m httpapi.Mastership
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			return fmt.Errorf("what answers at %s is no agent: %w", g.client.origin(), err)
		}
		grant, err := g.grantOf(ctx, m)
		if err != nil {
			return err
		}
		g.hold.Store(m.Hold)
		update(grant)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("the stream of the agent at %s has ended", g.client.origin())
}

// refusal is of an agent that does not open a stream.
type refusal struct {
	status int
	error
}

// finish takes the result of a step, and waits until ctx ends: nothing more is to come.
func (g *grants) finish(ctx context.Context, data string) error {
	var r httpapi.UpgradeResult
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		return fmt.Errorf("what answers at %s is no agent: %w", g.client.origin(), err)
	}
	g.result(r)
	<-ctx.Done()
	return context.Cause(ctx)
}

// sayAlive says to the agent that this process goes on, until ctx ends. If the agent no longer
// counts us in, it ends the stream.
func (g *grants) sayAlive(ctx context.Context) {
	tick := time.NewTicker(aliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		hold, _ := g.hold.Load().(string)
		bounded, cancel := context.WithTimeout(ctx, aliveTimeout)
		var answer httpapi.Alive
		_, _ = g.client.send(bounded, http.MethodPost, httpapi.PathAlive+"?hold="+url.QueryEscape(hold), &answer)
		cancel()
	}
}

// grantOf is an event as of the clock of this host. If the agent reads another clock, when the
// event was sent is not known, and what is left is asked for, counted from before the question.
func (g *grants) grantOf(ctx context.Context, m httpapi.Mastership) (supervise.Grant, error) {
	if m.Term == 0 || m.State != "active" && m.State != "releasing" {
		return supervise.Grant{NodeID: m.NodeID}, nil
	}
	// They are written to the supervisor as words of a line.
	if err := errors.Join(driver.ValidateName(m.NodeID), driver.ValidateName(m.ClusterID)); err != nil {
		return supervise.Grant{}, fmt.Errorf("what answers at %s is no agent: %w", g.client.origin(), err)
	}
	made, valid, drain := clock.Instant(m.BootNS), time.Duration(m.ValidNS), time.Duration(m.DrainNS)
	if m.ClockID == "" || m.ClockID != clock.ID() {
		made = clock.Now()
		var now httpapi.Mastership
		if _, err := g.client.ask(ctx, httpapi.PathMastership, &now); err != nil {
			return supervise.Grant{}, err
		}
		// The agent knows no other deadline of this process than that of the event.
		since := time.Duration(now.BootNS - m.BootNS)
		valid, drain = valid-since, drain-since
		if now.InstanceID != m.InstanceID || now.Term != m.Term {
			valid = 0
		}
		const drift = 50 // 2 %, which two clocks may differ by
		valid, drain = valid-valid/drift, drain-drain/drift
	}
	grant := supervise.Grant{Term: m.Term, ClusterID: m.ClusterID, NodeID: m.NodeID, Deadline: made.Add(valid)}
	if m.State == "releasing" {
		grant.DrainBy = made.Add(drain)
	}
	return grant, nil
}

// Done implements supervise.Source.
func (g *grants) Done(ctx context.Context, term uint64, leave bool) error {
	query := url.Values{}
	if leave {
		query.Set("leave", "true")
	}
	return g.done(ctx, term, query)
}

func (g *grants) done(ctx context.Context, term uint64, query url.Values) error {
	hold, _ := g.hold.Load().(string)
	query.Set("hold", hold)
	query.Set("term", strconv.FormatUint(term, 10))
	path := httpapi.PathDone + "?" + query.Encode()
	var answer httpapi.Done
	_, err := g.client.send(ctx, http.MethodPost, path, &answer)
	return err
}
