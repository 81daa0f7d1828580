package testserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/internal/testing/process"
)

var consulTool = tool{name: "consul", pkg: "github.com/hashicorp/consul", env: "MUSTER_TEST_CONSUL"}

// ConsulToken is the token with every right of an agent started WithACL.
const ConsulToken = "5f1d6c3a-0b7e-4c52-9a41-6d0e2f8b7c19"

// Consul is one Consul agent, a server unless it was started by StartConsulAgent.
type Consul struct {
	t       testing.TB
	program string
	home    string // holds configuration, data and log
	place   Place
	options consulOptions
	client  *consul.Client

	name              string
	httpPort, rpcPort int
	serfPort, wanPort int
	join              []string // addresses of the others' serf
	expect            int      // servers of the cluster, 0 for a client agent
	process           *process.Process
}

type consulOptions struct {
	ca    *CA
	acl   bool
	state bool
	dc    string
	wan   *Consul
	conns int
}

// ConsulOption changes how an agent is started.
type ConsulOption func(*consulOptions)

// WithACL denies everything to requests without a token. ConsulToken has every
// right; others are made with AddToken.
func WithACL() ConsulOption { return func(o *consulOptions) { o.acl = true } }

// WithConsulTLS serves HTTPS with a certificate for 127.0.0.1 and localhost that ca
// signs, and demands one that ca signed of its clients.
func WithConsulTLS(ca *CA) ConsulOption { return func(o *consulOptions) { o.ca = ca } }

// WithState keeps the state on disk, so that it outlives Kill and Restart. Without
// it, as with `consul agent -dev`, a restart begins with nothing.
func WithState() ConsulOption { return func(o *consulOptions) { o.state = true } }

// WithConnections accepts so many connections of one address at a time, in place of 10,000: an
// agent that is not configured accepts 200.
func WithConnections(n int) ConsulOption { return func(o *consulOptions) { o.conns = n } }

// WithDatacenter names the datacenter, which is joined to that of other, a server that
// was itself started WithDatacenter, unless other is nil. A second server can so be asked
// of what is in the first one's datacenter.
func WithDatacenter(name string, other *Consul) ConsulOption {
	return func(o *consulOptions) { o.dc, o.wan = name, other }
}

// StartConsul starts a server that is a datacenter by itself, and waits until it
// answers. It is killed, and its data removed, when the test ends; its log is shown
// if the test failed.
func StartConsul(t testing.TB, options ...ConsulOption) *Consul {
	t.Helper()
	c, err := newConsul(t, Place{}, 1, nil, options)
	return c.orFail(err)
}

// StartConsulAgent starts a client agent that joins the datacenter of server. It
// has its state on disk, and forgets it with Wipe.
func StartConsulAgent(t testing.TB, server *Consul) *Consul {
	t.Helper()
	return StartConsulAgentOn(t, Place{}, server)
}

// StartConsulAgentOn starts a client agent on a host of its own.
func StartConsulAgentOn(t testing.TB, place Place, server *Consul) *Consul {
	t.Helper()
	c, err := newConsul(t, place, 0, []string{server.serfAddr()}, []ConsulOption{WithState(), WithDatacenter(server.options.dc, nil)})
	return c.orFail(err)
}

// StartConsulCluster starts n servers that are one datacenter, each with its state on
// disk, and waits until all answer.
func StartConsulCluster(t testing.TB, n int) []*Consul {
	t.Helper()
	return StartConsulOn(t, make([]Place, n)...)
}

// StartConsulOn starts a server on each of the places, all of which are one
// datacenter, each with its state on disk, and waits until they answer.
func StartConsulOn(t testing.TB, places ...Place) []*Consul {
	t.Helper()
	var servers []*Consul
	var join []string
	for _, place := range places {
		c, err := prepareConsul(t, place, len(places), nil, []ConsulOption{WithState()})
		c.orFail(err)
		servers, join = append(servers, c), append(join, c.serfAddr())
	}
	for _, c := range servers {
		c.join = join
		c.orFail(c.launch())
	}
	for _, c := range servers {
		c.orFail(c.waitReady())
	}
	return servers
}

// orFail registers the end of c with its test, and fails it on an error.
func (c *Consul) orFail(err error) *Consul {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("start consul: %v", err)
	}
	return c
}

func newConsul(t testing.TB, place Place, expect int, join []string, options []ConsulOption) (*Consul, error) {
	c, err := prepareConsul(t, place, expect, join, options)
	if err != nil {
		return c, err
	}
	return c, c.start()
}

// prepareConsul does all but start the process.
func prepareConsul(t testing.TB, place Place, expect int, join []string, options []ConsulOption) (*Consul, error) {
	c := &Consul{t: t, place: place, expect: expect, join: join}
	for _, o := range options {
		o(&c.options)
	}
	var err error
	if c.program, err = consulTool.path(); err != nil {
		return c, err
	}
	if c.home, err = os.MkdirTemp("", "muster-consul-"); err != nil {
		return c, err
	}
	if _, alone := t.(noTest); !alone {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log of consul at %s:\n%s", c.Addr(), process.Tail(c.log(), 30))
			}
			c.close()
		})
	}
	for _, port := range []*int{&c.httpPort, &c.rpcPort, &c.serfPort, &c.wanPort} {
		if *port, err = freePort(); err != nil {
			return c, err
		}
	}
	c.name = fmt.Sprintf("test-%d", c.serfPort)
	config := consul.DefaultNonPooledConfig()
	config.Address, config.Scheme = c.Addr(), "http"
	if c.options.ca != nil {
		config.Scheme = "https"
		config.Transport = &http.Transport{TLSClientConfig: c.options.ca.clientConfig(), DisableKeepAlives: true}
	}
	if c.options.acl {
		config.Token = ConsulToken
	}
	c.client, err = consul.NewClient(config)
	return c, err
}

func (c *Consul) data() string     { return filepath.Join(c.home, "data") }
func (c *Consul) log() string      { return filepath.Join(c.home, "log") }
func (c *Consul) serfAddr() string { return c.place.addr(c.serfPort) }

func (c *Consul) start() error {
	if err := c.launch(); err != nil {
		return err
	}
	return c.waitReady()
}

// launch starts the process and does not wait for it.
func (c *Consul) launch() error {
	ports := map[string]int{
		"http": c.httpPort, "https": -1, "grpc": -1, "grpc_tls": -1, "dns": -1,
		"server": c.rpcPort, "serf_lan": c.serfPort, "serf_wan": -1,
	}
	config := map[string]any{
		"node_name":                  c.name,
		"bind_addr":                  c.place.ip(),
		"client_addr":                c.place.ip(),
		"ports":                      ports,
		"log_level":                  "warn",
		"disable_update_check":       true,
		"leave_on_terminate":         false,
		"enable_local_script_checks": true,
		// Instead of 10 s, for tests that wait until a session has expired.
		"session_ttl_min": "1s",
		// The least that Raft is content with, instead of five times as much.
		"performance": map[string]any{"raft_multiplier": 1},
		// What tests have no use for takes a third of what it costs to start.
		"connect":   map[string]any{"enabled": false},
		"peering":   map[string]any{"enabled": false},
		"limits":    map[string]any{"http_max_conns_per_client": cmp.Or(c.options.conns, 10_000)},
		"addresses": map[string]any{"http": c.place.ip() + " unix://" + c.Socket()},
	}
	if dc := c.options.dc; dc != "" {
		config["datacenter"] = dc
		if c.expect > 0 {
			ports["serf_wan"] = c.wanPort
		}
	}
	if other := c.options.wan; other != nil {
		config["retry_join_wan"] = []string{fmt.Sprintf("127.0.0.1:%d", other.wanPort)}
		config["retry_interval_wan"] = "200ms"
	}
	if len(c.join) > 0 {
		config["retry_join"] = c.join
		config["retry_interval"] = "200ms"
	}
	if c.expect > 0 {
		config["server"] = true
		config["bootstrap_expect"] = c.expect
	}
	if ca := c.options.ca; ca != nil {
		cert, key := ca.issue(filepath.Join(c.home, "tls"), "server", PKCS8)
		ports["https"], ports["http"] = c.httpPort, -1
		config["tls"] = map[string]any{"https": map[string]any{
			"ca_file": ca.CAFile, "cert_file": cert, "key_file": key, "verify_incoming": true,
		}}
		config["addresses"] = map[string]any{"https": c.place.ip()}
	}
	if c.options.acl {
		config["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]any{"initial_management": ConsulToken, "agent": ConsulToken},
		}
	}
	args := []string{"agent", "-config-file=" + filepath.Join(c.home, "agent.json")}
	if c.options.state || c.expect != 1 {
		config["data_dir"] = c.data()
	} else {
		delete(config, "server")
		delete(config, "bootstrap_expect")
		args = append(args, "-dev")
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.home, "agent.json"), b, 0o600); err != nil {
		return err
	}
	c.process, err = process.Start(c.place.command(c.log(), c.program, args))
	return err
}

// waitReady waits until the datacenter has a leader and knows this agent.
func (c *Consul) waitReady() error {
	return ready(c.process, c.log(), 2*time.Second, c.ready)
}

func (c *Consul) ready(ctx context.Context) error {
	query := (&consul.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	checks, _, err := c.client.Health().Node(c.name, query)
	if err != nil {
		return err
	}
	for _, check := range checks {
		if check.CheckID == "serfHealth" && check.Status == consul.HealthPassing {
			return nil
		}
	}
	return errors.New("the agent is not in the catalog yet")
}

func (c *Consul) close() {
	if c.process != nil {
		c.process.Kill()
	}
	os.RemoveAll(c.home)
}

// Name is the name of the agent's node.
func (c *Consul) Name() string { return c.name }

// Addr is the HOST:PORT of the HTTP API.
func (c *Consul) Addr() string { return c.place.addr(c.httpPort) }

// Endpoint is the URL of the HTTP API.
func (c *Consul) Endpoint() string {
	if c.options.ca != nil {
		return "https://" + c.Addr()
	}
	return "http://" + c.Addr()
}

// Socket is the path of the unix socket on which the HTTP API is served too, unless
// it is served over TLS.
func (c *Consul) Socket() string { return filepath.Join(c.home, "http.sock") }

// Client is a client with every right, to look and to do behind the back of what is
// tested.
func (c *Consul) Client() *consul.Client { return c.client }

// Kill ends the agent at once, as kill -9 does. Restart brings it back.
func (c *Consul) Kill() { c.process.Kill() }

// Stop ends the agent in good order, without leaving the datacenter. Restart brings
// it back.
func (c *Consul) Stop() { c.process.Stop(10 * time.Second) }

// Restart starts the agent again at the same address, with its state if it has one on
// disk, and waits until it answers. An agent that runs is killed first.
func (c *Consul) Restart() {
	c.t.Helper()
	c.process.Kill()
	if err := c.start(); err != nil {
		c.t.Fatalf("restart consul: %v", err)
	}
}

// Wipe kills the agent and removes its state. Restart brings back an empty one. What
// is removed of a client agent is what it had registered; the servers find out by
// themselves.
func (c *Consul) Wipe() {
	c.t.Helper()
	c.process.Kill()
	if err := os.RemoveAll(c.data()); err != nil {
		c.t.Fatalf("wipe consul: %v", err)
	}
}

// Pause stops the agent's clock, as SIGSTOP does: connections stay open and nothing
// is answered. Where the system has no such signal the test is skipped.
func (c *Consul) Pause() {
	c.t.Helper()
	c.signal((*process.Process).Pause)
	// The signal takes a moment to reach all threads.
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := c.client.Status().LeaderWithQueryOptions((&consul.QueryOptions{}).WithContext(ctx))
		cancel()
		if err != nil {
			return
		}
	}
}

// Resume undoes Pause.
func (c *Consul) Resume() {
	c.t.Helper()
	c.signal((*process.Process).Resume)
}

func (c *Consul) signal(send func(*process.Process) error) {
	c.t.Helper()
	switch err := send(c.process); {
	case errors.Is(err, errors.ErrUnsupported):
		c.t.Skip("this system cannot pause a process")
	case err != nil:
		c.t.Fatalf("signal consul: %v", err)
	}
}

// IsLeader reports whether this server leads the datacenter. An error counts as no.
func (c *Consul) IsLeader() bool {
	leader, err := c.client.Status().Leader()
	return err == nil && leader == c.place.addr(c.rpcPort)
}

// AddToken returns a token that has the rules, in HCL, and no others, on an agent
// that was started WithACL.
func (c *Consul) AddToken(rules string) string {
	c.t.Helper()
	policy, _, err := c.client.ACL().PolicyCreate(&consul.ACLPolicy{Name: strings.ToLower(rand.Text()), Rules: rules}, nil)
	if err != nil {
		c.t.Fatalf("add a policy to consul: %v", err)
	}
	token, _, err := c.client.ACL().TokenCreate(&consul.ACLToken{Policies: []*consul.ACLLink{{ID: policy.ID}}}, nil)
	if err != nil {
		c.t.Fatalf("add a token to consul: %v", err)
	}
	return token.SecretID
}

// Backup returns a snapshot of the whole datacenter, for RestoreBackup.
func (c *Consul) Backup() []byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	r, _, err := c.client.Snapshot().Save((&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		c.t.Fatalf("save a snapshot of consul: %v", err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		c.t.Fatalf("save a snapshot of consul: %v", err)
	}
	return b
}

// RestoreBackup makes the datacenter what it was at Backup.
func (c *Consul) RestoreBackup(backup []byte) {
	c.t.Helper()
	// A server that is busy may never answer.
	var err error
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout/3)
		err = c.client.Snapshot().Restore((&consul.WriteOptions{}).WithContext(ctx), bytes.NewReader(backup))
		cancel()
		if err == nil {
			return
		}
		c.t.Logf("restore a snapshot of consul: %v", err)
	}
	c.t.Fatalf("restore a snapshot of consul: %v", err)
}

// SharedConsul returns a server that all tests of the process share, and starts it at
// the first call. Tests keep apart by names of their own, and leave the server
// running. It ends with Main.
func SharedConsul(t testing.TB) *Consul {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.consul == nil {
		c, err := newConsul(noTest{}, Place{}, 1, nil, nil)
		if err != nil {
			c.close()
			t.Fatalf("start the shared consul: %v", err)
		}
		shared.consul = c
	}
	return shared.consul
}

// LendConsul returns a server that has nothing in it, and is the test's alone until that ends: one
// of an earlier test that has been emptied, or a new one. It is as StartConsul starts it without
// options, but for the indexes of its changes, which go on.
func LendConsul(t testing.TB) *Consul {
	t.Helper()
	c := rested()
	if c == nil {
		var err error
		if c, err = newConsul(noTest{}, Place{}, 1, nil, nil); err != nil {
			c.close()
			t.Fatalf("start a consul to lend: %v", err)
		}
	}
	c.t = t
	t.Cleanup(func() {
		c.t = noTest{}
		if t.Failed() {
			t.Logf("log of consul at %s:\n%s", c.Addr(), process.Tail(c.log(), 30))
			c.close()
			return
		}
		if err := c.empty(); err != nil {
			t.Logf("this consul is lent to nobody again: %v", err)
			c.close()
			return
		}
		shared.Lock()
		defer shared.Unlock()
		shared.lent = append(shared.lent, c)
	})
	return c
}

// rested takes a server that is still empty out of those that may be lent, if there is one. What
// was under way when its test ended may have been carried out since.
func rested() *Consul {
	for {
		shared.Lock()
		if len(shared.lent) == 0 {
			shared.Unlock()
			return nil
		}
		c := shared.lent[0]
		shared.lent = shared.lent[1:]
		shared.Unlock()
		if c.empty() == nil {
			return c
		}
		c.close()
	}
}

// empty removes all that tests leave behind, and returns when nothing of it is left: an agent may
// put back for a while what it had yet to write. What is left after a while no request can remove,
// as a service with a name that is a path: another server costs less than to wait for it.
func (c *Consul) empty() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		left, err := c.sweep(ctx)
		if err == nil && left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d things are left in consul: %w", left, cmp.Or(err, ctx.Err()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// sweep removes what it finds and says how much that was.
func (c *Consul) sweep(ctx context.Context) (found int, err error) {
	read, write := new(consul.QueryOptions).WithContext(ctx), new(consul.WriteOptions).WithContext(ctx)
	var errs []error
	remove := func(err error) {
		found++
		errs = append(errs, err)
	}
	agent := c.client.Agent()
	services, err := agent.ServicesWithFilterOpts("", read)
	errs = append(errs, err)
	for id := range services {
		if id != "consul" {
			remove(agent.ServiceDeregisterOpts(id, read))
		}
	}
	checks, err := agent.ChecksWithFilterOpts("", read)
	errs = append(errs, err)
	for id := range checks {
		remove(agent.CheckDeregisterOpts(id, read))
	}
	sessions, _, err := c.client.Session().List(read)
	errs = append(errs, err)
	for _, s := range sessions {
		_, err := c.client.Session().Destroy(s.ID, write)
		remove(err)
	}
	keys, _, err := c.client.KV().Keys("", "", read)
	errs = append(errs, err)
	if len(keys) > 0 {
		_, err := c.client.KV().DeleteTree("", write)
		remove(err)
	}
	nodes, _, err := c.client.Catalog().Nodes(read)
	errs = append(errs, err)
	for _, n := range nodes {
		if n.Node != c.name {
			_, err := c.client.Catalog().Deregister(&consul.CatalogDeregistration{Node: n.Node}, write)
			remove(err)
		}
	}
	on, _, err := c.client.Catalog().NodeServiceList(c.name, read)
	errs = append(errs, err)
	if on != nil {
		for _, s := range on.Services {
			if s.ID != "consul" {
				_, err := c.client.Catalog().Deregister(&consul.CatalogDeregistration{Node: c.name, ServiceID: s.ID}, write)
				remove(err)
			}
		}
	}
	health, _, err := c.client.Health().Node(c.name, read)
	errs = append(errs, err)
	for _, check := range health {
		if check.CheckID != "serfHealth" {
			_, err := c.client.Catalog().Deregister(&consul.CatalogDeregistration{Node: c.name, CheckID: check.CheckID}, write)
			remove(err)
		}
	}
	return found, errors.Join(errs...)
}
