package etcd

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/musterhq/muster/secret"
)

// transport adds to each call what this driver wants of it:
//
//   - It fails at once where no endpoint can be reached. The etcd client waits
//     until the context ends, and so hides why.
//   - The member that answers must know a leader. One that is cut off from the
//     others would leave watches silent.
//   - It carries the token of the user, if there is one.
//   - Its answer is of the cluster in use.
//
// The etcd client could log in by itself, but it does so already in New, which
// then fails while etcd is down; and again for each stream, of which every renewal
// of a lease is one, at the price of a bcrypt hash on the server each time.
type transport struct {
	username string
	password func() (secret.String, error)

	// login is held while a token is fetched; a channel, so that waiting for it
	// ends with the context.
	login chan struct{}

	clusters clusters

	mu    sync.Mutex
	known bool
	token string // empty if etcd has authentication switched off
}

func newTransport(c Config) *transport {
	return &transport{
		username: c.Username,
		password: func() (secret.String, error) { return c.Password.Or(c.PasswordFile) },
		login:    make(chan struct{}, 1),
		clusters: clusters{all: c.Endpoints, seen: make(map[string]uint64)},
	}
}

func (t *transport) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(t.unary),
		grpc.WithChainStreamInterceptor(t.stream),
	}
}

func (t *transport) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	opts = append(opts, grpc.WaitForReady(false))
	if method == pb.Auth_Authenticate_FullMethodName {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	signed, token, err := t.sign(ctx, conn)
	if err != nil {
		return err
	}
	err = invoke(signed, method, req, reply, conn, opts...)
	if t.username != "" && stale(err) {
		t.forget(token)
		if signed, _, err = t.sign(ctx, conn); err != nil {
			return err
		}
		err = invoke(signed, method, req, reply, conn, opts...)
	}
	if err != nil || method == pb.Maintenance_Status_FullMethodName {
		return err
	}
	return t.clusters.check(ctx, reply)
}

// stream cannot know here that a token is stale: the answer comes later. A caller that
// reads it calls forgetIfStale.
func (t *transport) stream(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	signed, _, err := t.sign(ctx, conn)
	if err != nil {
		return nil, err
	}
	s, err := open(signed, d, conn, method, append(opts, grpc.WaitForReady(false))...)
	if err != nil {
		return nil, err
	}
	return checkedStream{s, &t.clusters}, nil
}

// sign returns a context for one call, and the token that it carries.
func (t *transport) sign(ctx context.Context, conn *grpc.ClientConn) (context.Context, string, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if t.username == "" {
		return ctx, "", nil
	}
	token, err := t.current(ctx, conn)
	if err != nil || token == "" {
		return ctx, "", err
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token), token, nil
}

// current returns the token, and logs in if there is none.
func (t *transport) current(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	if token, known := t.cached(); known {
		return token, nil
	}
	select {
	case t.login <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-t.login }()
	if token, known := t.cached(); known {
		return token, nil
	}
	password, err := t.password()
	if err != nil {
		return "", err
	}
	r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: t.username, Password: string(password)})
	if err != nil {
		if _, text := describe(err); text != desc(rpctypes.ErrGRPCAuthNotEnabled) {
			return "", err
		}
		r = &pb.AuthenticateResponse{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.token = true, r.Token
	return t.token, nil
}

func (t *transport) cached() (token string, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token, t.known
}

// forget drops token, if it is still the one in use.
func (t *transport) forget(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.known, t.token = false, ""
	}
}

// forgetIfStale looks at the error of a stream and reports whether opening it
// again, with another token, may help.
func (t *transport) forgetIfStale(err error) bool {
	if t.username == "" || !stale(err) {
		return false
	}
	token, _ := t.cached()
	t.forget(token)
	return true
}
