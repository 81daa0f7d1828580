package testserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/musterhq/muster/internal/testing/process"
	"github.com/musterhq/muster/internal/testing/wait"
)

// startTimeout bounds how long a server may take until it answers. It takes half a
// second where the machine is idle.
const startTimeout = wait.Patience

// RootPassword is that of the user root of a server started WithAuth.
const RootPassword = "root-secret"

// Etcd is one etcd server.
type Etcd struct {
	t       testing.TB
	program string
	home    string // holds data and log
	place   Place
	options etcdOptions
	client  *clientv3.Client

	clientURL, peerURL string
	name, members      string // among the members of its cluster, which is itself alone by default
	process            *process.Process
}

type etcdOptions struct {
	ca   *CA
	auth bool
}

// EtcdOption changes how a server is started.
type EtcdOption func(*etcdOptions)

// WithTLS serves over TLS with a certificate for 127.0.0.1 and localhost that ca
// signs, and demands one that ca signed of its clients.
func WithTLS(ca *CA) EtcdOption { return func(o *etcdOptions) { o.ca = ca } }

// WithAuth demands a user and a password. The user root has RootPassword; others
// are made with AddUser.
func WithAuth() EtcdOption { return func(o *etcdOptions) { o.auth = true } }

// StartEtcd starts a server and waits until it answers. It is killed, and its data
// removed, when the test ends; its log is shown if the test failed.
func StartEtcd(t testing.TB, options ...EtcdOption) *Etcd {
	t.Helper()
	e, err := newEtcd(t, options)
	if e != nil {
		t.Cleanup(func() { e.end(t) })
	}
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	return e
}

// StartEtcdCluster starts n servers that are one cluster, and waits until all answer.
func StartEtcdCluster(t testing.TB, n int) []*Etcd {
	t.Helper()
	return StartEtcdOn(t, make([]Place, n)...)
}

// StartEtcdOn starts a server on each of the places, all of which are one cluster, and
// waits until they answer.
func StartEtcdOn(t testing.TB, places ...Place) []*Etcd {
	t.Helper()
	var servers []*Etcd
	var members []string
	for i, place := range places {
		e, err := prepareEtcd(t, nil)
		if err == nil {
			e.place = place
			t.Cleanup(func() { e.end(t) })
			err = e.newAddresses()
		}
		if err != nil {
			t.Fatalf("start etcd: %v", err)
		}
		e.name = fmt.Sprintf("test-%d", i+1)
		servers, members = append(servers, e), append(members, e.name+"="+e.peerURL)
	}
	var errs []error
	for _, e := range servers {
		e.members = strings.Join(members, ",")
		errs = append(errs, e.launch())
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	for _, e := range servers {
		if err := e.waitReady(); err != nil {
			t.Fatalf("start etcd: %v", err)
		}
	}
	return servers
}

// prepareEtcd does all but start the process.
func prepareEtcd(t testing.TB, options []EtcdOption) (*Etcd, error) {
	program, err := etcdTool.path()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp("", "muster-etcd-")
	if err != nil {
		return nil, err
	}
	e := &Etcd{t: t, program: program, home: home, name: "test"}
	for _, o := range options {
		o(&e.options)
	}
	return e, nil
}

func newEtcd(t testing.TB, options []EtcdOption) (*Etcd, error) {
	e, err := prepareEtcd(t, options)
	if err != nil {
		return nil, err
	}
	if err := e.firstStart(); err != nil {
		return e, err
	}
	if e.options.auth {
		return e, e.enableAuth()
	}
	return e, nil
}

// firstStart looks for ports until the server starts: another process may take one
// between the moment that it was found free and the server's own.
func (e *Etcd) firstStart() error {
	var errs []error
	for range 3 {
		if err := e.newAddresses(); err != nil {
			return err
		}
		err := e.start()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		e.client.Close()
		os.RemoveAll(e.data())
	}
	return errors.Join(errs...)
}

// newAddresses takes new ports, and makes the client.
func (e *Etcd) newAddresses() (err error) {
	if e.clientURL, err = e.url(); err != nil {
		return err
	}
	if e.peerURL, err = e.url(); err != nil {
		return err
	}
	e.peerURL = "http://" + strings.SplitN(e.peerURL, "://", 2)[1]
	return e.newClient()
}

func (e *Etcd) url() (string, error) {
	scheme := "http"
	if e.options.ca != nil {
		scheme = "https"
	}
	port, err := freePort()
	return scheme + "://" + e.place.addr(port), err
}

func (e *Etcd) data() string { return filepath.Join(e.home, "data") }
func (e *Etcd) log() string  { return filepath.Join(e.home, "log") }

func (e *Etcd) start() error {
	if err := e.launch(); err != nil {
		return err
	}
	return e.waitReady()
}

// launch starts the process and does not wait for it.
func (e *Etcd) launch() error {
	members := cmp.Or(e.members, e.name+"="+e.peerURL)
	args := []string{
		"--name=" + e.name,
		"--data-dir=" + e.data(),
		"--listen-client-urls=" + e.clientURL,
		"--advertise-client-urls=" + e.clientURL,
		"--listen-peer-urls=" + e.peerURL,
		"--initial-advertise-peer-urls=" + e.peerURL,
		"--initial-cluster=" + members,
		"--log-level=warn",
		// The data need not outlive a crash of the machine, only of the server.
		"--unsafe-no-fsync",
	}
	if ca := e.options.ca; ca != nil {
		cert, key := ca.issue(filepath.Join(e.home, "tls"), "server", PKCS8)
		args = append(args,
			"--cert-file="+cert, "--key-file="+key,
			"--client-cert-auth", "--trusted-ca-file="+ca.CAFile)
	}
	if e.options.auth {
		args = append(args, "--bcrypt-cost=4") // the least, as tests log in often
	}
	p, err := process.Start(e.place.command(e.log(), e.program, args))
	if err != nil {
		return err
	}
	e.process = p
	return nil
}

// waitReady waits until a linearizable read succeeds: the server answers and has
// a leader.
func (e *Etcd) waitReady() error {
	return ready(e.process, e.log(), time.Second, func(ctx context.Context) error {
		_, err := e.client.Get(ctx, "ready")
		return err
	})
}

func (e *Etcd) newClient() error {
	config := clientv3.Config{Endpoints: []string{e.clientURL}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if ca := e.options.ca; ca != nil {
		config.TLS = ca.clientConfig()
	}
	if e.options.auth && e.process != nil {
		config.Username, config.Password = "root", RootPassword
	}
	c, err := clientv3.New(config)
	if err != nil {
		return err
	}
	if e.client != nil {
		e.client.Close()
	}
	e.client = c
	return nil
}

func (e *Etcd) enableAuth() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := e.client.UserAdd(ctx, "root", RootPassword); err != nil {
		return err
	}
	if _, err := e.client.UserGrantRole(ctx, "root", "root"); err != nil {
		return err
	}
	if _, err := e.client.AuthEnable(ctx); err != nil {
		return err
	}
	return e.newClient()
}

// end closes e at the end of its test.
func (e *Etcd) end(t testing.TB) {
	if t.Failed() {
		t.Logf("log of etcd at %s:\n%s", e.clientURL, process.Tail(e.log(), 30))
	}
	e.close()
}

func (e *Etcd) close() {
	if e.client != nil {
		e.client.Close()
	}
	if e.process != nil {
		e.process.Kill()
	}
	os.RemoveAll(e.home)
}

// Endpoint is the URL that clients dial.
func (e *Etcd) Endpoint() string { return e.clientURL }

// Addr is the HOST:PORT of Endpoint.
func (e *Etcd) Addr() string { return strings.SplitN(e.clientURL, "://", 2)[1] }

// Client is a client with every right, to look and to do behind the back of what
// is tested. It is closed with the server.
func (e *Etcd) Client() *clientv3.Client { return e.client }

// Kill ends the server at once, as kill -9 does. Restart brings it back.
func (e *Etcd) Kill() { e.process.Kill() }

// Stop ends the server in good order. Restart brings it back.
func (e *Etcd) Stop() { e.process.Stop(10 * time.Second) }

// Restart starts the server again at the same address and with the same data, and
// waits until it answers. A server that runs is killed first.
func (e *Etcd) Restart() {
	e.t.Helper()
	e.process.Kill()
	if err := e.start(); err != nil {
		e.t.Fatalf("restart etcd: %v", err)
	}
}

// Wipe kills the server and removes its data, users included. Restart brings back
// an empty one.
func (e *Etcd) Wipe() {
	e.t.Helper()
	e.process.Kill()
	if err := os.RemoveAll(e.data()); err != nil {
		e.t.Fatalf("wipe etcd: %v", err)
	}
}

// Backup returns a copy of the data, for RestoreBackup. The server is away while it is
// made.
func (e *Etcd) Backup() *EtcdBackup {
	e.t.Helper()
	b := &EtcdBackup{dir: filepath.Join(e.home, fmt.Sprintf("backup-%d", time.Now().UnixNano()))}
	e.Stop()
	if err := os.CopyFS(b.dir, os.DirFS(e.data())); err != nil {
		e.t.Fatalf("copy the data of etcd: %v", err)
	}
	e.Restart()
	return b
}

// EtcdBackup is what Backup returns.
type EtcdBackup struct{ dir string }

// RestoreBackup puts the data of b in the place of what there is, and restarts the
// server.
func (e *Etcd) RestoreBackup(b *EtcdBackup) {
	e.t.Helper()
	e.Wipe()
	if err := os.CopyFS(e.data(), os.DirFS(b.dir)); err != nil {
		e.t.Fatalf("put back the data of etcd: %v", err)
	}
	e.Restart()
}

// IsLeader reports whether this server leads its cluster. An error counts as no.
func (e *Etcd) IsLeader() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := e.client.Status(ctx, e.clientURL)
	return err == nil && r.Leader != 0 && r.Leader == r.Header.MemberId
}

// Pause stops the server's clock, as SIGSTOP does: connections stay open and
// nothing is answered. Where the system has no such signal the test is skipped.
func (e *Etcd) Pause() {
	e.t.Helper()
	e.signal((*process.Process).Pause)
	// The signal takes a moment to reach all threads.
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := e.client.Get(ctx, "ready")
		cancel()
		if err != nil {
			return
		}
	}
}

// Resume undoes Pause.
func (e *Etcd) Resume() {
	e.t.Helper()
	e.signal((*process.Process).Resume)
}

func (e *Etcd) signal(send func(*process.Process) error) {
	e.t.Helper()
	switch err := send(e.process); {
	case errors.Is(err, errors.ErrUnsupported):
		e.t.Skip("this system cannot pause a process")
	case err != nil:
		e.t.Fatalf("signal etcd: %v", err)
	}
}

// AddUser makes a user of a server started WithAuth, and a role of the same name
// that may read and write the keys that start with prefix, and no others.
func (e *Etcd) AddUser(name, password, prefix string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_, err := e.client.RoleAdd(ctx, name)
	if err == nil {
		_, err = e.client.RoleGrantPermission(ctx, name, prefix, clientv3.GetPrefixRangeEnd(prefix),
			clientv3.PermissionType(clientv3.PermReadWrite))
	}
	if err == nil {
		_, err = e.client.UserAdd(ctx, name, password)
	}
	if err == nil {
		_, err = e.client.UserGrantRole(ctx, name, name)
	}
	if err != nil {
		e.t.Fatalf("add etcd user %q: %v", name, err)
	}
}

// SharedEtcd returns a server that all tests of the process share, and starts it at
// the first call. Tests keep apart by keys of their own, and leave the server
// running. It ends with Main.
func SharedEtcd(t testing.TB) *Etcd {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.etcd == nil {
		e, err := newEtcd(noTest{}, nil)
		if err != nil {
			if e != nil {
				e.close()
			}
			t.Fatalf("start the shared etcd: %v", err)
		}
		shared.etcd = e
	}
	return shared.etcd
}
