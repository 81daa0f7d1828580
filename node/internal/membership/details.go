package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node/internal/link"
)

// protocolMember is the protocol of the network that serves what gossip has no
// room for.
const protocolMember = "member"

// pathDetails is where a member serves its details.
const pathDetails = "/v1/details"

const (
	maxFetches   = 4 // at a time
	fetchTimeout = 5 * time.Second
	serveTimeout = 10 * time.Second
)

// handler serves the protocol "member".
func (m *Membership) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathDetails, func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		body := m.table.self.details.json
		m.mu.Unlock()
		reply(w, body)
	})
	return mux
}

func reply(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the other side may be gone
}

// serve answers the others until the listener is closed.
func (m *Membership) serve(ln net.Listener) *http.Server {
	server := &http.Server{
		Handler:           m.handler(),
		ReadHeaderTimeout: serveTimeout,
		ReadTimeout:       serveTimeout,
		WriteTimeout:      serveTimeout,
		IdleTimeout:       serveTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          m.memberlistLogger(),
	}
	m.life.wg.Go(func() { _ = server.Serve(ln) })
	return server
}

// getDetails returns the encoded details of an instance at addr, whose size is bounded. The
// connection is not kept: what is fetched is fetched once.
func (m *Membership) getDetails(ctx context.Context, addr, instanceID string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return m.cfg.Network.DialInstance(ctx, protocolMember, addr, instanceID)
		},
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+pathDetails, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", addr, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxDetails+1))
	if err == nil && len(body) > MaxDetails {
		err = fmt.Errorf("%s answers with more than %d bytes", addr, MaxDetails)
	}
	return body, err
}

// identifyPeer returns which instance answers at addr.
func (m *Membership) identifyPeer(ctx context.Context, addr string) (instanceID string, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	conn, err := m.cfg.Network.Dial(ctx, protocolMember, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return link.PeerOf(conn).InstanceID, nil
}

// wanted is one set of details to be fetched.
type wanted struct {
	name, instanceID, addr, digest string
}

// fetch gets details that did not fit into gossip and puts them into the table. It
// tries until it has them or ctx ends, which it does when the member is gone or
// announces others.
func (m *Membership) fetch(ctx context.Context, w wanted) {
	wait := backoff.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second}
	defer m.alarms.Forget(detailsMissing, w.name)
	for {
		details, err := m.fetchOnce(ctx, w)
		if err == nil {
			m.mu.Lock()
			if r := m.table.records[w.name]; r != nil && r.meta.Digest == w.digest {
				r.details, r.fetched = details, w.digest
			}
			m.mu.Unlock()
			m.alarms.Clear(detailsMissing, w.name)
			m.notify()
			return
		}
		if ctx.Err() != nil {
			return
		}
		m.counts.fetchFailures.Add(1)
		m.alarms.Raise(detailsMissing, w.name, "addr", w.addr, "error", err)
		if wait.Wait(ctx) != nil {
			return
		}
	}
}

var errOtherDetails = errors.New("the member serves other details than it announced")

func (m *Membership) fetchOnce(ctx context.Context, w wanted) (Details, error) {
	select {
	case m.fetches.slots <- struct{}{}:
		defer func() { <-m.fetches.slots }()
	case <-ctx.Done():
		return Details{}, ctx.Err()
	}
	m.counts.fetches.Add(1)
	body, err := m.getDetails(ctx, w.addr, w.instanceID)
	if err != nil {
		return Details{}, err
	}
	if digest(body) != w.digest {
		return Details{}, errOtherDetails // they have changed; the news is on its way
	}
	var d Details
	if err := json.Unmarshal(body, &d); err != nil {
		return Details{}, err
	}
	return d, nil
}

// fetches are those that are under way.
type fetches struct {
	slots chan struct{} // one element for each that dials
	// tasks are by memberlist name. They belong to the goroutine of Membership.run.
	tasks map[string]fetchTask
}

func newFetches() fetches {
	return fetches{slots: make(chan struct{}, maxFetches), tasks: make(map[string]fetchTask)}
}

type fetchTask struct {
	wanted
	cancel context.CancelFunc
}

// reconcile starts the fetches that are missing and ends those that are no longer wanted.
func (f fetches) reconcile(want []wanted, start func(wanted) context.CancelFunc) {
	current := make(map[string]wanted, len(want))
	for _, w := range want {
		current[w.name] = w
	}
	for name, task := range f.tasks {
		if current[name] != task.wanted {
			task.cancel()
			delete(f.tasks, name)
		}
	}
	for name, w := range current {
		if _, runs := f.tasks[name]; !runs {
			f.tasks[name] = fetchTask{w, start(w)}
		}
	}
}
