package engine

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-connections/sockets"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/hint"
	"github.com/musterhq/muster/tlsfiles"
)

// DefaultTimeout bounds a call to the engine if Config.Timeout is 0.
const DefaultTimeout = 5 * time.Second

// Config says where the engine is. The zero value finds it.
type Config struct {
	// Host is the address of the engine: unix:///PATH, tcp://HOST:PORT or, on Windows,
	// npipe:////./pipe/NAME. Default: that in $DOCKER_HOST, with the files below $DOCKER_CERT_PATH
	// (else ~/.docker) where that or $DOCKER_TLS_VERIFY is set; without it the context of the
	// docker command in $DOCKER_CONTEXT, or the current one of ~/.docker/config.json if it can be
	// used. Without these, the first that is there and lets us in, even if its engine is not up
	// yet, of /var/run/docker.sock, /run/podman/podman.sock, $XDG_RUNTIME_DIR/docker.sock,
	// $XDG_RUNTIME_DIR/podman/podman.sock and the sockets of desktop engines below $HOME.
	Host string `yaml:"host"`

	// TLS is for an engine at tcp://HOST:PORT. Its certificate is always verified.
	TLS tlsfiles.Config `yaml:"tls"`

	// Timeout bounds each call, but for the stream of events once that has begun.
	// Default: DefaultTimeout.
	Timeout time.Duration `yaml:"timeout"`
}

// Client is an Engine over the API of Docker, which Podman speaks too. The version of
// the API is negotiated. Make one with New; it is safe for concurrent use.
type Client struct {
	hosts   []host
	note    string          // what to say if there is no engine
	named   bool            // there is one host, which the user has named
	secure  *tlsfiles.Files // nil without TLS
	version string          // of the API, empty to negotiate it
	timeout time.Duration

	mu     sync.Mutex
	conn   *conn // nil until an engine has answered
	closed bool
}

var _ Engine = (*Client)(nil)

// New returns a client of the engine that c names. It does not connect: that is for
// each call to do, so that an engine which starts later is found. The error joins
// *driver.ConfigError values.
func New(c Config) (*Client, error) { return newClient(c, os.LookupEnv) }

func newClient(c Config, lookupEnv func(string) (string, bool)) (*Client, error) {
	var errs []error
	if c.Timeout < 0 {
		errs = append(errs, &driver.ConfigError{Key: "timeout", Value: c.Timeout.String(), Problem: "must not be negative", Hint: "leave it out for " + DefaultTimeout.String()})
	}
	hosts, files, note, err := lookup(c, lookupEnv)
	errs = append(errs, err)
	cl := &Client{hosts: hosts, note: note, named: len(hosts) == 1, timeout: cmp.Or(c.Timeout, DefaultTimeout)}
	if err == nil && cl.named && hosts[0].secure {
		cl.secure, err = tlsfiles.Follow(files, tlsfiles.Contents.Client)
		errs = append(errs, err)
	}
	cl.version, _ = lookupEnv(envAPIVersion)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return cl, nil
}

// Close ends idle connections; calls made after it fail. It is idempotent. A sequence
// of events ends with its context.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn != nil {
		c.conn.close()
		c.conn = nil
	}
	return nil
}

// Host is the address of the engine, such as unix:///var/run/docker.sock: the one that
// has answered, or else those where it is looked for, with commas.
func (c *Client) Host() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn.host.String()
	}
	return join(c.hosts)
}

func join(hosts []host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.String())
	}
	return strings.Join(all, ", ")
}

// Running implements Engine.
func (c *Client) Running(ctx context.Context) ([]string, error) {
	body, err := c.get(ctx, "list containers", func(ctx context.Context, api *client.Client) error {
		_, err := api.ContainerList(ctx, client.ContainerListOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []struct {
		ID string `json:"Id"`
	}
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, c.garbage("list containers", err)
	}
	var ids []string
	for _, one := range all {
		if one.ID == "" {
			return nil, c.garbage("list containers", errors.New(`a container without "Id"`))
		}
		ids = append(ids, one.ID)
	}
	return ids, nil
}

// Inspect implements Engine. An answer that is not that of an engine is an error that
// wraps driver.ErrInvalid.
func (c *Client) Inspect(ctx context.Context, id string) (Container, error) {
	what := "inspect container " + strconv.Quote(id)
	body, err := c.get(ctx, what, func(ctx context.Context, api *client.Client) error {
		_, err := api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		return err
	})
	if err != nil {
		return Container{}, err
	}
	found, err := parseContainer(body)
	if err != nil {
		return Container{}, c.garbage(what, err)
	}
	return found, nil
}

// Network is what an engine says of a network.
type Network struct {
	ID     string `json:"Id"`
	Name   string
	Driver string // bridge, host, macvlan, ipvlan, overlay and what plug-ins add
	// Internal says that nothing leads out of it.
	Internal bool
	IPAM     struct {
		Config []struct{ Subnet string }
	}
}

// Network returns what the engine says of a network, by its id or name. The error wraps
// driver.ErrNotFound if there is no such network.
func (c *Client) Network(ctx context.Context, id string) (Network, error) {
	what := "inspect network " + strconv.Quote(id)
	body, err := c.get(ctx, what, func(ctx context.Context, api *client.Client) error {
		_, err := api.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
		return err
	})
	if err != nil {
		return Network{}, err
	}
	var n Network
	if err := json.Unmarshal(body, &n); err != nil {
		return Network{}, c.garbage(what, err)
	}
	return n, nil
}

// Info is what an engine says of itself and its host.
type Info struct {
	// Version is that of the engine, such as 28.2.2.
	Version string
	// SwarmAddress is that of the host in its Swarm, empty if it is in none.
	SwarmAddress string
	// Rootless says that the engine runs as a user, in a network of its own.
	Rootless bool
}

// Info returns what the engine says of itself and its host.
func (c *Client) Info(ctx context.Context) (Info, error) {
	const what = "ask for the engine's own state"
	body, err := c.get(ctx, what, func(ctx context.Context, api *client.Client) error {
		_, err := api.Info(ctx, client.InfoOptions{})
		return err
	})
	if err != nil {
		return Info{}, err
	}
	var info struct {
		ServerVersion   string
		SecurityOptions []string
		Swarm           struct{ NodeAddr string }
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return Info{}, c.garbage(what, err)
	}
	rootless := slices.ContainsFunc(info.SecurityOptions, func(o string) bool {
		return strings.HasPrefix(o, "name=rootless") || o == "rootless"
	})
	return Info{Version: info.ServerVersion, SwarmAddress: info.Swarm.NodeAddr, Rootless: rootless}, nil
}

// Ping reports whether an engine answers. It asks for nothing that a proxy before it closes.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, _, err := c.ping(ctx, ctx, "greet")
	return err
}

// Events implements Engine. Some that have happened within the second before the first may
// come after it.
func (c *Client) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		const what = "watch events"
		sub, cancel := context.WithCancel(ctx)
		defer cancel()
		conn, stream, err := c.subscribe(ctx, sub, cancel, what)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer stream.end(cancel)
		if !yield(Event{}, nil) {
			return
		}
		for {
			select {
			case m := <-stream.Messages:
				// The filter has let nothing else through, if the engine knows it.
				if e := eventOf(m); e.ID != "" && !yield(e, nil) {
					return
				}
			case err := <-stream.Err:
				if ctx.Err() != nil {
					return
				}
				if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					err = errors.New("the engine has ended the stream")
				}
				yield(Event{}, fmt.Errorf("docker: %s at %v: %w: %s", what, conn.host, driver.ErrUnavailable, oneLine(err.Error())))
				return
			}
		}
	}
}

// eventOf returns what m says of a container, or a zero Event if it says nothing. A
// network reports its coming and going from a container, too.
func eventOf(m events.Message) Event {
	switch m.Type {
	case events.ContainerEventType:
		return Event{ID: m.Actor.ID, Action: string(m.Action)}
	case events.NetworkEventType:
		return Event{ID: m.Actor.Attributes["container"], Action: "network " + string(m.Action)}
	}
	return Event{}
}

// eventStream is that of the library, whose goroutine ends with the context of the call.
type eventStream struct{ client.EventsResult }

// end waits until it has.
func (e eventStream) end(cancel func()) {
	cancel()
	for range e.Err {
	}
}

// subscribe returns once the engine has taken the subscription, whose context is sub.
//
// An engine answers before it listens to its own events, so one that happens just then
// would be lost. It is asked for those since the second in which we last heard from
// it, by its own clock, which may differ from ours.
func (c *Client) subscribe(ctx, sub context.Context, cancel func(), what string) (*conn, eventStream, error) {
	inTime, done := context.WithTimeout(ctx, c.timeout)
	defer done()
	conn, since, err := c.ping(inTime, ctx, what)
	if err != nil {
		return nil, eventStream{}, err
	}
	// The time of the call must not end the stream. Whichever comes first counts: the
	// answer, which stops the clock, or the clock, which cancels.
	late := context.AfterFunc(inTime, cancel)
	x := &responseCapture{stream: true}
	result := eventStream{conn.api.Events(x.with(sub), client.EventsListOptions{
		Since:   since,
		Filters: make(client.Filters).Add("type", "container", "network"),
	})}
	if late() && x.status == http.StatusOK {
		return conn, result, nil
	}
	err = errors.Join(inTime.Err(), <-result.Err) // the clock's end reads as a cancelled context
	result.end(cancel)
	c.drop(conn, x)
	return nil, eventStream{}, c.failed(ctx, what, conn.host, x, err)
}

// ping returns a connection to an engine that has just answered, and the time of its
// answer in seconds since 1970.
func (c *Client) ping(ctx, caller context.Context, what string) (*conn, string, error) {
	conn, err := c.connect(ctx, caller, what)
	if err != nil {
		return nil, "", err
	}
	x := &responseCapture{hello: true}
	if _, err := conn.api.Ping(x.with(ctx), client.PingOptions{}); err != nil {
		return nil, "", c.failed(caller, what, conn.host, x, err)
	}
	now := x.date
	if now.IsZero() {
		now = time.Now()
	}
	return conn, strconv.FormatInt(now.Unix(), 10), nil
}

// get makes a call and returns the body of the answer, which the caller decodes: one odd
// address of one container makes the types of the library fail. What the library returns is empty.
func (c *Client) get(caller context.Context, what string, call func(context.Context, *client.Client) error) ([]byte, error) {
	ctx, cancel := context.WithTimeout(caller, c.timeout)
	defer cancel()
	conn, err := c.connect(ctx, caller, what)
	if err != nil {
		return nil, err
	}
	x := new(responseCapture)
	err = call(x.with(ctx), conn.api)
	if x.err == nil && x.status >= 200 && x.status < 300 {
		return x.body, nil
	}
	if err == nil {
		err = fmt.Errorf("status %d", x.status)
	}
	c.drop(conn, x)
	return nil, c.failed(caller, what, conn.host, x, err)
}

func (c *Client) garbage(what string, err error) error {
	return fmt.Errorf("docker: %s at %s: %w: the answer is not that of an engine: %s", what, c.Host(), driver.ErrInvalid, oneLine(err.Error()))
}

// conn is a client of the library for one engine, with a version that this speaks.
type conn struct {
	host      host
	api       *client.Client
	transport *http.Transport
}

func (c *conn) close() { c.transport.CloseIdleConnections() }

// connect returns the connection, after it has found an engine and agreed with it on a
// version. Several callers may do so at once; the first one's stays.
//
// A socket that is not there is passed over, and one that does not let us in. Behind any
// other that fails is an engine, which may just be starting: a client that took the next one
// would take the containers of another for all there are, and keep it.
func (c *Client) connect(ctx, caller context.Context, what string) (*conn, error) {
	if found, err := c.connected(); found != nil || err != nil {
		return found, err
	}
	var first error
	for _, h := range c.hosts {
		if !c.named && !h.exists() {
			continue
		}
		opened, err := c.open(h)
		if err != nil {
			return nil, err
		}
		x := &responseCapture{hello: true}
		if _, err = opened.api.Ping(x.with(ctx), client.PingOptions{NegotiateAPIVersion: true}); err == nil {
			return c.keep(opened)
		}
		opened.close()
		err = c.failed(caller, what, h, x, err)
		switch {
		case c.named:
			return nil, err
		case errors.Is(x.err, os.ErrNotExist):
			// A pipe that is not there is known only by trying, and a socket may go meanwhile.
		case errors.Is(err, driver.ErrDenied):
			first = cmp.Or(first, err)
		default:
			return nil, hint.With(err, "if its engine is there no more, remove it or name another in docker.host or $"+envHost)
		}
	}
	if first == nil {
		first = hint.With(fmt.Errorf("docker: %s: %w: there is none of %s", what, ErrNoEngine, join(c.hosts)),
			"start the engine, mount its socket into this container (-v /var/run/docker.sock:/var/run/docker.sock), or set $"+envHost)
		first = hint.With(first, c.note)
	}
	return nil, first
}

var errClosed = fmt.Errorf("docker: %w: the client is closed", driver.ErrUnavailable)

func (c *Client) connected() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	return c.conn, nil
}

func (c *Client) keep(opened *conn) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		opened.close()
		return nil, errClosed
	case c.conn != nil:
		opened.close()
	default:
		c.conn = opened
	}
	return c.conn, nil
}

// drop forgets a connection whose engine no longer speaks the version that was agreed
// on, so that the next call agrees again.
func (c *Client) drop(old *conn, x *responseCapture) {
	if !outdated(x) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == old {
		c.conn = nil
		old.close()
	}
}

func (c *Client) open(h host) (*conn, error) {
	transport := new(http.Transport)
	if err := sockets.ConfigureTransport(transport, h.network, h.addr); err != nil {
		return nil, fmt.Errorf("docker: %v: %w: %w", h, driver.ErrInvalid, err)
	}
	scheme := "http"
	if h.secure {
		scheme = "https"
		transport.TLSClientConfig = c.secure.Current() // behind a proxy, where the next is not asked
		transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.timeout)
			defer cancel()
			dialer := tls.Dialer{Config: c.secure.Current()} // with the files as they are now
			return dialer.DialContext(ctx, network, addr)
		}
	}
	api, err := client.New(
		client.WithHost(h.String()),
		// In place of the transport of WithHost: one with a capturingTransport before it.
		client.WithHTTPClient(&http.Client{Transport: capturingTransport{transport}, CheckRedirect: client.CheckRedirect}),
		client.WithScheme(scheme),
		client.WithAPIVersion(c.version),
	)
	if err != nil {
		return nil, fmt.Errorf("docker: %v: %w: %s", h, driver.ErrInvalid, oneLine(err.Error()))
	}
	return &conn{host: h, api: api, transport: transport}, nil
}
