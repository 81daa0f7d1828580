package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

const (
	// mostOff is how far the wall clock may be off before it is reported.
	mostOff = time.Second
	// leastSpan is over how long the boot clock is compared with the monotonic one, and
	// mostDrift by how much they may differ.
	leastSpan = 100 * time.Millisecond
	mostDrift = 20 * time.Millisecond
)

// Clock is a server that says what time it has, in the Date of each of its answers.
type Clock struct {
	// Name is how the server is called in what is said of it.
	Name string
	// URL is one that anybody may read.
	URL string
	// Socket is dialled in place of the host of URL, unless it is empty.
	Socket string
	// TLS is for https.
	TLS *tls.Config
}

// clock looks at the clock that mastership is measured on, and at the one on the wall.
func (r *run) clock(ctx context.Context) []Finding {
	if rest := leastSpan - time.Since(r.beganAt); rest > 0 {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	boot, monotonic := clock.Now().Sub(r.began), time.Since(r.beganAt)
	var found []Finding
	switch drift := boot - monotonic; {
	case boot <= 0:
		found = append(found, Finding{"clock", Fail, "the clock that counts since the host was started stands still", "see what is wrong with the time source of this machine"})
	case drift.Abs() > mostDrift+monotonic/100:
		found = append(found, Finding{"clock", Warn, fmt.Sprintf("the clock that counts since the host was started went %v in %v", boot, monotonic),
			"see whether the machine was suspended just now, or what is wrong with its time source"})
	default:
		found = append(found, ok("clock", "the clock that mastership is measured on runs"))
	}
	return append(found, r.wall(ctx))
}

// wall compares the wall clock with that of the first server that answers.
func (r *run) wall(ctx context.Context) Finding {
	const name = "clock.wall"
	const nothing = "nothing is decided by it, but logs are compared by it and certificates judged"
	asked := 0
	for _, provider := range r.Config.Providers() {
		for _, c := range r.Providers[provider].Clocks {
			asked++
			off, err := c.off(ctx)
			if err != nil {
				continue
			}
			if off.Abs() > mostOff {
				return Finding{name, Warn, fmt.Sprintf("%s is %v off against %s; %s", time.Now().UTC().Format(time.RFC3339), off.Round(time.Second), c.Name, nothing),
					"let chrony, systemd-timesyncd or the like set the clocks of both hosts"}
			}
			return ok(name, "as that of %s, to the second; %s", c.Name, nothing)
		}
	}
	if asked == 0 {
		return ok(name, "not checked: no provider tells the time; %s", nothing)
	}
	return skipped(name, "no provider has told the time", "see provider")
}

// off is by how much the clock of this host is surely ahead of c's, or behind.
func (c Clock) off(ctx context.Context) (time.Duration, error) {
	transport := &http.Transport{TLSClientConfig: c.TLS, DisableKeepAlives: true}
	if c.Socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		}
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return 0, err
	}
	// No proxy, and no redirect: the question is what this server has.
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	sent := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	received := time.Now()
	date, err := http.ParseTime(strings.TrimSpace(response.Header.Get("Date")))
	if err != nil {
		return 0, err
	}
	// The answer was made between sent and received, and its second had begun.
	switch least, most := sent.Sub(date.Add(time.Second)), received.Sub(date); {
	case least > 0:
		return least, nil
	case most < 0:
		return most, nil
	}
	return 0, nil
}
