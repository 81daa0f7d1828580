package call

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/musterhq/muster/node"
)

// linked are the credentials of connections between nodes: the one port has done the handshake, and
// knows who is at the other end.
type linked struct{ level credentials.SecurityLevel }

func newLinked(tls bool) linked {
	if tls {
		return linked{credentials.PrivacyAndIntegrity}
	}
	return linked{credentials.NoSecurity}
}

// peerInfo is who is at the other end, as gRPC hands it to handlers.
type peerInfo struct {
	credentials.CommonAuthInfo
	peer node.Peer
}

func (peerInfo) AuthType() string { return "muster" }

func (l linked) handshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, peerInfo{credentials.CommonAuthInfo{SecurityLevel: l.level}, node.PeerOf(c)}, nil
}

func (l linked) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return l.handshake(c)
}

func (l linked) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return l.handshake(c)
}

func (l linked) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "muster"}
}

func (l linked) Clone() credentials.TransportCredentials { return l }

func (l linked) OverrideServerName(string) error { return nil }
