package testserver

import (
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/faultproxy"
)

// Proxy is a faultproxy.TCP, for tests that need little of it.
type Proxy struct{ *faultproxy.TCP }

// NewProxy starts a proxy to the HOST:PORT target on a port of its own. It ends with
// the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	return &Proxy{faultproxy.NewTCP(t, target)}
}

// Mute swallows what the server sends, from now on: requests are carried out and
// nobody learns of it.
func (p *Proxy) Mute() { p.Swallow(faultproxy.Answers) }

// Delay holds back what the server sends by d. 0 ends it, and lets go what is held.
func (p *Proxy) Delay(d time.Duration) { p.TCP.Delay(faultproxy.Answers, d) }
