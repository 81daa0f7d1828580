package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/routes"
)

// CallProtocol is what a client upgrades a connection to with PathCallConnect, in the header
// Upgrade: from then on it carries plain gRPC, all calls of which go to the master, or to the node
// that the parameter to names.
const CallProtocol = "muster-call"

// connect has a client call members with gRPC. That goes on for as long as the client may ask.
func (s *server) connect(w http.ResponseWriter, r *http.Request) {
	status, err := s.options.operable(r)
	to := r.URL.Query().Get("to")
	switch {
	case err != nil:
	case s.options.Operator.Connect == nil:
		status, err = http.StatusForbidden, errors.New("this program makes no calls; ask an agent")
	case r.Header.Get("Upgrade") != CallProtocol:
		w.Header().Set("Upgrade", CallProtocol)
		status, err = http.StatusUpgradeRequired, fmt.Errorf("the header Upgrade: %s is wanted; use muster forward call", CallProtocol)
	case to == "" || to == CallAll:
		status, err = http.StatusBadRequest, fmt.Errorf("to: %q: not what can be called; write master or the id of a node", to)
	}
	if err != nil {
		routes.WriteError(w, status, err)
		return
	}
	end, ok := s.startStream(w)
	if !ok {
		return
	}
	defer end()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		routes.WriteError(w, http.StatusInternalServerError, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{}) // those were of the request
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+CallProtocol+"\r\n\r\n"); err != nil {
		return
	}
	defer s.watchClient(r, conn)()
	s.options.Operator.Connect(to, upgraded{conn, buffered})
}

// watchClient closes a connection whose client may no longer ask, until stop is called.
func (s *server) watchClient(r *http.Request, conn net.Conn) (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(keepAlive)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if !s.mayRead(r) {
					conn.Close()
					return
				}
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		watching.Wait()
	}
}

// upgraded is a connection of which the server has read something already.
type upgraded struct {
	net.Conn
	buffered io.Reader
}

func (u upgraded) Read(b []byte) (int, error) { return u.buffered.Read(b) }
