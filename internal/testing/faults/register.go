package faults

import (
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/checker"
)

// register is a service as an application may have one outside of the cluster: it holds
// one value, and accepts a write unless it has accepted one of a higher term before.
type register struct {
	mu      sync.Mutex
	applied []checker.Applied
}

// serve answers at the address until the test ends.
func (r *register) serve(t testing.TB, addr string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the register: %v", err)
	}
	server := &http.Server{Handler: r}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return "http://" + l.Addr().String()
}

// ServeHTTP carries out the operation that the note asks for, and answers with one.
func (r *register) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var n checker.Note
	if request.Method == http.MethodPost {
		if err := json.NewDecoder(request.Body).Decode(&n); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	answer := r.carryOut(request.Method == http.MethodPost, n)
	_ = json.NewEncoder(w).Encode(answer) // or the client does not learn of it
}

func (r *register) carryOut(write bool, n checker.Note) (answer checker.Note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := len(r.applied); k > 0 {
		answer.Seen, answer.SeenTerm = r.applied[k-1].Value, r.applied[k-1].Term
	}
	if write && n.Term >= answer.SeenTerm {
		answer.Accepted = true
		r.applied = append(r.applied, checker.Applied{BootNS: int64(clock.Now()), Term: n.Term, Value: n.Value})
	}
	return answer
}

func (r *register) log() []checker.Applied {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]checker.Applied(nil), r.applied...)
}
