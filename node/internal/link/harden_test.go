package link

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
)

// What a user's configuration leaves open is closed: a node dials nobody whose certificate
// it cannot verify.
func TestDialVerifiesWhateverTheConfigurationSays(t *testing.T) {
	w := &world{newAuthority(t)}
	skip := func(c *Config) { c.TLS.InsecureSkipVerify = true }
	for name, server := range map[string]func(*Config){
		"an unknown authority": func(c *Config) {
			c.TLS = newAuthority(t).mutual(t)
			c.TLS.ClientCAs = w.ca.pool() // it would have us
		},
		"another host": func(c *Config) {
			c.TLS.Certificates = []tls.Certificate{w.ca.issueFor(t, func(c *certificate) { c.hosts = []net.IP{net.IPv4(10, 0, 0, 5)} })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := w.link(t, server)
			echo(t, l, "x")
			_, err := w.link(t, skip).Dial(wait.Context(t), "x", l.Addr().String())
			wantRefused(t, err, ReasonCertificate)
			// It learns why: the alert is bad_certificate, and no connection stands.
			wait.For(t, "the other end knows", func() bool { return l.Stats().Rejected[ReasonDistrust] == 1 })
			if n := l.Stats().Accepted["x"]; n != 0 {
				t.Errorf("%d connections were accepted", n)
			}
		})
	}
	friend := w.link(t)
	echo(t, friend, "x")
	c, err := w.link(t, skip).Dial(wait.Context(t), "x", friend.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A node serves nobody without a certificate of its authorities, in TLS 1.3, and resumes
// nothing: each connection shows again who it is.
func TestServingVerifiesWhateverTheConfigurationSays(t *testing.T) {
	w := &world{newAuthority(t)}
	for name, weaken := range map[string]func(*tls.Config){
		"no certificate is asked for": func(c *tls.Config) { c.ClientAuth = tls.NoClientCert },
		"any certificate will do":     func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert },
		"one is verified if given":    func(c *tls.Config) { c.ClientAuth = tls.VerifyClientCertIfGiven },
		"TLS 1.2":                     func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"nothing is asked of a client, by a function": func(c *tls.Config) {
			weak := c.Clone()
			weak.ClientAuth, weak.MinVersion = tls.NoClientCert, tls.VersionTLS12
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return weak, nil }
		},
		"a function that has no authorities": func(c *tls.Config) {
			weak := c.Clone()
			weak.ClientCAs = nil
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return weak, nil }
		},
		"tickets": func(c *tls.Config) { c.SessionTicketsDisabled = false; c.SetSessionTicketKeys([][32]byte{{1}}) },
	} {
		t.Run(name, func(t *testing.T) {
			l := w.link(t, func(c *Config) { weaken(c.TLS) })
			echo(t, l, "x")
			client := w.ca.mutual(t)
			client.NextProtos = []string{alpn(wireVersion, "orders")}
			client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			meet := func(change func(*tls.Config)) (*tls.ConnectionState, bool) {
				t.Helper()
				c := client.Clone()
				change(c)
				conn, err := tls.Dial("tcp", l.Addr().String(), c)
				if err != nil {
					return nil, false
				}
				defer conn.Close()
				if _, err := conn.Write(ask("x").append(nil)); err != nil {
					return nil, false
				}
				if s, _, err := readAnswer(conn); err != nil || s != statusAccepted {
					return nil, false
				}
				state := conn.ConnectionState()
				return &state, true
			}
			for stranger, change := range map[string]func(*tls.Config){
				"without a certificate":    func(c *tls.Config) { c.Certificates = nil },
				"with another authority's": func(c *tls.Config) { c.Certificates = newAuthority(t).mutual(t).Certificates },
				"with TLS 1.2":             func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
			} {
				if _, accepted := meet(change); accepted {
					t.Errorf("one %s is accepted", stranger)
				}
			}
			for range 2 {
				state, accepted := meet(func(*tls.Config) {})
				switch {
				case name == "a function that has no authorities":
					if accepted {
						t.Error("somebody is accepted")
					}
				case !accepted:
					t.Error("a friend is not")
				case state.Version != tls.VersionTLS13 || state.DidResume:
					t.Errorf("version %#x, resumed: %v", state.Version, state.DidResume)
				}
			}
			// Without authorities of its own, crypto/tls goes by those of the system.
			if n := l.Stats().Rejected[ReasonCertificate]; name == "a function that has no authorities" && n > 0 {
				t.Errorf("%d certificates were verified, by authorities that nobody named", n)
			}
		})
	}
}
