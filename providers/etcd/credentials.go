package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// secureTransport is gRPC's TLS with the files as they are at each handshake, and
// with two corrections.
//
// gRPC takes the name that it expects in the server's certificate from the
// address that it dials, and overwrites the one that was configured.
//
// And in TLS 1.3 a client is done with the handshake before the server has seen
// its certificate. If it is refused, gRPC may notice by a write that fails
// ("broken pipe") before it has read why.
type secureTransport struct {
	credentials.TransportCredentials // of the configuration at first: for what is no handshake
	config                           func() *tls.Config
}

func newSecureTransport(config func() *tls.Config) credentials.TransportCredentials {
	return secureTransport{credentials.NewTLS(config()), config}
}

func (s secureTransport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := s.config()
	if config.ServerName != "" {
		authority = config.ServerName
	}
	secure, info, err := credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, err
	}
	return explained{secure}, info, nil
}

func (s secureTransport) Clone() credentials.TransportCredentials {
	return secureTransport{s.TransportCredentials.Clone(), s.config}
}

// explained is a connection whose Write fails with the alert of the other end, if
// there is one to be read.
type explained struct{ net.Conn }

func (e explained) Write(b []byte) (int, error) {
	n, err := e.Conn.Write(b)
	if err == nil {
		return n, nil
	}
	// The connection is lost either way, and with it what is read here.
	e.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, readErr := e.Read(make([]byte, 1))
	var alert *net.OpError
	if errors.As(readErr, &alert) && alert.Op == "remote error" {
		err = alert
	}
	return n, err
}
