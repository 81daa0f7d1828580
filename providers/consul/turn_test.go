package consul

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A watch whose turn to wait comes late waits as long as another, and has not failed meanwhile.
func TestLateTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, Config{Address: "127.0.0.1:8500"})
		asked := make(chan string, 1) // for how long to wait
		d.transport = &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				r, err := http.ReadRequest(bufio.NewReader(server))
				if err != nil {
					t.Error(err)
					return
				}
				asked <- r.URL.Query().Get("wait")
				answer := http.Response{
					StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Close: true, Body: io.NopCloser(strings.NewReader("[]")), ContentLength: 2,
					Header: http.Header{"X-Consul-Index": {"6"}, "X-Consul-Knownleader": {"true"}, "X-Consul-Lastcontact": {"0"}},
				}
				_ = answer.Write(server)
			}()
			return client, nil
		}}
		for range maxWaiting {
			d.waiting <- struct{}{}
		}
		f := &follower{driver: d, service: "s"}
		failed := make(chan error, 1)
		go func() {
			_, err := f.await(t.Context(), 5)
			failed <- err
		}()
		time.Sleep(waitTime + 2*answerTime)
		<-d.waiting
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		if wait := <-asked; wait != "300000ms" {
			t.Errorf("it waits for %s, want 5 minutes", wait)
		}
	})
}
