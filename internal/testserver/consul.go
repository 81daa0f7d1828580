package testserver

import (
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

	"github.com/musterhq/muster/internal/process"
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
		// Instead of 10 s, for tests that wait until a session has run out.
		"session_ttl_min": "1s",
		// The least that Raft is content with, instead of five times as much.
		"performance": map[string]any{"raft_multiplier": 1},
		"limits":      map[string]any{"http_max_conns_per_client": 10_000},
		"addresses":   map[string]any{"http": c.place.ip() + " unix://" + c.Socket()},
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
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := c.ready(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if over, why := c.process.Ended(); over {
			return fmt.Errorf("the agent ended: %v\n%s", why, process.Tail(c.log(), 10))
		}
		if time.Now().After(deadline) {
			c.process.Kill()
			return fmt.Errorf("not ready within %v: %w\n%s", startTimeout, err, process.Tail(c.log(), 10))
		}
		time.Sleep(20 * time.Millisecond)
	}
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
	r, _, err := c.client.Snapshot().Save(nil)
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
	if err := c.client.Snapshot().Restore(nil, strings.NewReader(string(backup))); err != nil {
		c.t.Fatalf("restore a snapshot of consul: %v", err)
	}
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
