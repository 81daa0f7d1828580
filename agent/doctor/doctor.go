// Package doctor looks at what a node or a registrar would need on this host and in its
// providers, before it is started or beside it, and says of each thing whether it is well
// and how to fix it.
//
// It changes nothing that stays: what it writes to find out whether it may write is
// taken away again, and is under names that no reader takes for a node. Each check is
// bounded in time, and what hangs on one that failed says so and is not tried.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/hint"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/tlsfiles"
)

// Status is what came of a check.
type Status string

// The values of Status.
const (
	// OK means that all is well, or that there is nothing to be checked.
	OK Status = "ok"
	// Warn means that a node would run, but someone should look; or that something
	// could not be checked.
	Warn Status = "warn"
	// Fail means that a node would not start, would not be found, or would never be
	// master.
	Fail Status = "fail"
)

// Finding is what came of one check. Its JSON is public and only gains fields.
type Finding struct {
	// Check is the name: "provider.etcd.register".
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Detail is what was found, on one line.
	Detail string `json:"detail"`
	// Hint says how to fix it. It is empty if the check passed.
	Hint string `json:"hint"`
}

// Options say what is looked at.
type Options struct {
	// Config is the configuration, and Node what was made of it, with its detectors and
	// its registries. The caller closes them.
	Config *config.Config
	Node   node.Config

	// Providers says more of the providers, by name.
	Providers map[string]Provider

	// Engine is the container engine, nil if none can be asked; NoEngine says why.
	Engine   *engine.Client
	NoEngine error

	// Ask reads the status of the agent at http.addr.
	Ask func(ctx context.Context) (httpapi.Status, error)

	// Timeout bounds each check. 0: 10 s.
	Timeout time.Duration
}

// Provider is what a provider's own package knows of it.
type Provider struct {
	// Permission says what to grant where it denies a call.
	Permission string
	// TLS are the files by which it is reached.
	TLS tlsfiles.Config
	// Clocks are what tells its time.
	Clocks []Clock
	// Voters says that the nodes which it lists grant mastership, and to no other.
	Voters bool
}

// Run makes all checks and returns what they found, in the order in which a node meets
// what they are about. ctx bounds all of them together.
func Run(ctx context.Context, o Options) []Finding {
	r := newRun(o)
	defer r.preflight.Close()
	first := []check{{"limits", r.limits}, {"data_dir", r.dataDir}, {"docker", r.docker}, {"jobs", r.jobs}, {"agent", r.lookForAgent}}
	for _, registry := range o.Node.Registries {
		first = append(first, check{"provider." + registry.Name(), func(ctx context.Context) []Finding { return r.provider(ctx, registry) }})
	}
	found := r.together(ctx, first)
	for _, c := range []check{
		{"port", r.port}, {"address", r.address}, {"reach", r.reach}, {"cluster", r.cluster}, {"certificates", r.certificates}, {"clock", r.clock},
	} {
		found = append(found, r.guarded(ctx, c)...)
	}
	head := Finding{Check: "configuration", Status: OK, Detail: fmt.Sprintf("cluster %s, node %s, %s",
		o.Config.Cluster, o.Config.Node.ID, strings.Join(o.Config.Providers(), " and "))}
	return append([]Finding{head}, found...)
}

func newRun(o Options) *run {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	return &run{Options: o, known: make(map[string]known), began: clock.Now(), beganAt: time.Now(), preflight: node.NewPreflight(o.Node)}
}

// Configuration is what there is to say where the configuration itself is wrong: a
// failure for each thing, and nothing else.
func Configuration(err error) []Finding {
	var found []Finding
	for _, err := range leaves(err) {
		found = append(found, failed("configuration", err, "see docs/configuration.md"))
	}
	return append(found, skipped("remaining", "the configuration is wrong", "correct the configuration"))
}

func leaves(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if inner := errors.Unwrap(err); inner != nil {
			if _, ok := inner.(interface{ Unwrap() []error }); ok {
				return leaves(inner)
			}
		}
		return []error{err}
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, leaves(err)...)
	}
	return all
}

// run is one round of checks.
type run struct {
	Options
	began   clock.Instant
	beganAt time.Time

	mu    sync.Mutex
	agent *httpapi.Status  // that of this node, nil if none runs
	known map[string]known // by provider

	preflight *node.Preflight
	held      bool   // node.bind is held by the agent
	found     string // the address that others dial, empty if none was found
}

// known is what a provider says of the cluster.
type known struct {
	read      bool
	instances []driver.Instance
	master    *driver.Mastership // nil if it is not known
}

type check struct {
	name string
	run  func(context.Context) []Finding
}

// together makes checks at the same time and returns what they found in their order.
func (r *run) together(ctx context.Context, checks []check) []Finding {
	all := make([][]Finding, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { all[i] = r.guarded(ctx, c) })
	}
	wg.Wait()
	var found []Finding
	for _, f := range all {
		found = append(found, f...)
	}
	return found
}

// guarded makes one check in its time. One that hangs all the same, as in a call of a
// file system that is gone, is left behind.
func (r *run) guarded(ctx context.Context, c check) []Finding {
	const grace = 2 * time.Second // to clear away
	bounded, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { done <- c.run(bounded) }()
	select {
	case found := <-done:
		return found
	case <-bounded.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case found := <-done:
		return found
	case <-late.C:
		return []Finding{{c.name, Fail, "it hangs", "see what it waits for: a disk, a name server, a socket"}}
	}
}

func ok(check, format string, args ...any) Finding {
	return Finding{Check: check, Status: OK, Detail: fmt.Sprintf(format, args...)}
}

// failed has the hint of the error, or else the given one.
func failed(check string, err error, otherwise string) Finding {
	detail, own := split(err)
	return Finding{check, Fail, detail, cmp.Or(own, otherwise)}
}

// split returns the text of err on one line, without its hint, and the hint.
func split(err error) (problem, how string) {
	var config *config.Error
	if errors.As(err, &config) && config.Hint != "" {
		problem, how = strings.Replace(err.Error(), "; "+config.Hint, "", 1), config.Hint
	} else {
		problem, how = hint.Split(err)
	}
	return strings.Join(strings.Fields(problem), " "), how
}

// skipped says that a check was not made.
func skipped(check, why, hint string) Finding {
	return Finding{check, Warn, "not checked: " + why, hint}
}

func (r *run) ourAgent() *httpapi.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.agent
}
