package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node"
)

// keepAlive is how often a stream of events is written to when there are none, so
// that proxies keep it open and a client that is gone is noticed.
const keepAlive = 15 * time.Second

// eventStream is the type of server-sent events.
const eventStream = "text/event-stream"

// message is one server-sent event.
type message struct {
	name string
	// data is called when it is about to be written, since it may say when that is.
	data func() any
}

// stream writes the messages as server-sent events until they end, the client is gone, or may no
// longer ask. Nobody else may be left to send a message when it has returned: what sends them
// watches the context of r, too.
func (s *server) stream(w http.ResponseWriter, r *http.Request, messages <-chan message) {
	stream := http.NewResponseController(w)
	// The server's bound is for requests that end.
	_ = stream.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := stream.Flush(); err != nil {
		return
	}
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	for {
		// A client that does not read is not waited for.
		_ = stream.SetWriteDeadline(time.Now().Add(2 * keepAlive))
		select {
		case m, open := <-messages:
			if !open {
				return
			}
			data, err := json.Marshal(m.data())
			if err != nil || !s.mayRead(r) {
				return
			}
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", m.name, data)
		case <-idle.C:
			if !s.mayRead(r) {
				return
			}
			fmt.Fprint(w, ": no news\n\n")
		case <-r.Context().Done():
			return
		}
		if stream.Flush() != nil {
			return // the client is gone; its context ends the sender
		}
	}
}

// startStream takes one of the places of streams, and answers if there is none. The caller calls
// end once it has ended.
func (s *server) startStream(w http.ResponseWriter) (end func(), ok bool) {
	select {
	case s.streams <- struct{}{}:
		return func() { <-s.streams }, true
	default:
		w.Header().Set("Retry-After", "10")
		routes.WriteError(w, http.StatusServiceUnavailable, fmt.Errorf("%d streams of events are read already; close one of them", cap(s.streams)))
		return nil, false
	}
}

// mayRead reports whether the client of r may still ask: its session may have ended, or the token
// changed, since the stream began.
func (s *server) mayRead(r *http.Request) bool {
	_, err := s.options.Check(r)
	return err == nil
}

// events streams the events of the node as server-sent events, each with the name
// of its kind and an Event as data. The first ones tell what there is.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	end, ok := s.startStream(w)
	if !ok {
		return
	}
	defer end()
	s.stream(w, r, messagesOf(r.Context(), s.node.Events(r.Context()), func(event node.Event) message {
		return message{string(event.Kind), func() any { return eventOf(event) }}
	}))
}

// messagesOf makes a message of each element of a sequence, until that or ctx ends.
func messagesOf[T any](ctx context.Context, all iter.Seq[T], of func(T) message) <-chan message {
	messages := make(chan message)
	go func() {
		defer close(messages)
		for one := range all {
			select {
			case messages <- of(one):
			case <-ctx.Done():
				return
			}
		}
	}()
	return messages
}
