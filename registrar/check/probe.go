package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/declared"
)

// A Probe makes one attempt of a check and returns nil if it passes, or why it does not
// in one line. It honours its context.
type Probe func(ctx context.Context) error

// NewProbe returns the probe of c for a service at addr, which is HOST:PORT. Each attempt
// has connections of its own. The error wraps driver.ErrInvalid.
func NewProbe(c declared.Check, addr string) (Probe, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w: a check of a service at %q: %w", driver.ErrInvalid, addr, err)
	}
	c = c.WithDefaults()
	at := declared.HostPort{Host: host, Port: port}
	switch {
	case c.HTTP != "":
		return httpProbe(c, at, "http", c.HTTP), nil
	case c.HTTPS != "":
		return httpProbe(c, at, "https", c.HTTPS), nil
	case c.TCP != "":
		return tcpProbe(target(at, c.TCP)), nil
	case c.GRPC != "":
		return grpcProbe(c, target(at, c.GRPC)), nil
	case len(c.Script) > 0:
		return scriptProbe(c.Script, at), nil
	}
	return nil, fmt.Errorf("%w: the check of a service at %s checks nothing", driver.ErrInvalid, addr)
}

// target is what a check of a connection dials.
func target(at declared.HostPort, s string) string {
	if s == "true" {
		return at.Addr()
	}
	return at.Fill(s)
}

// maxOutput bounds what is read of an answer or of a program.
const maxOutput = 4 << 10

// maxReason bounds what is kept of it.
const maxReason = 200

// brief is the first line with anything in it, shortened.
func brief(output []byte) string {
	for line := range strings.Lines(string(output)) {
		line = strings.Join(strings.Fields(strings.ToValidUTF8(strings.Map(printable, line), "?")), " ")
		if runes := []rune(line); len(runes) > maxReason {
			line = string(runes[:maxReason]) + "..."
		}
		if line != "" {
			return line
		}
	}
	return ""
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// reason is err, with what the other end said.
func reason(what string, output []byte) error {
	if said := brief(output); said != "" {
		return fmt.Errorf("%s: %s", what, said)
	}
	return errors.New(what)
}

func httpProbe(c declared.Check, at declared.HostPort, scheme, target string) Probe {
	address := at.Fill(target)
	if strings.HasPrefix(target, "/") {
		address = scheme + "://" + at.Addr() + at.Fill(target)
	}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, c.Method, address, nil)
		if err != nil {
			return err
		}
		request.Header.Set("User-Agent", "muster-check")
		for name, value := range c.Header {
			request.Header.Set(name, at.Fill(string(value)))
			if http.CanonicalHeaderKey(name) == "Host" {
				request.Host = at.Fill(string(value))
			}
		}
		transport := &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: c.TLSSkipVerify}, //nolint:gosec // it was asked for
		}
		defer transport.CloseIdleConnections()
		answer, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return errors.New(brief([]byte(err.Error())))
		}
		defer answer.Body.Close()
		if answer.StatusCode >= 200 && answer.StatusCode < 300 {
			return nil
		}
		body, _ := io.ReadAll(io.LimitReader(answer.Body, maxOutput)) // as much as there is
		return reason(fmt.Sprintf("%s %s: status %d", c.Method, address, answer.StatusCode), body)
	}
}

func tcpProbe(addr string) Probe {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

func grpcProbe(c declared.Check, target string) Probe {
	addr, service, _ := strings.Cut(target, "/")
	secure := insecure.NewCredentials()
	if c.GRPCTLS {
		secure = credentials.NewTLS(&tls.Config{InsecureSkipVerify: c.TLSSkipVerify}) //nolint:gosec // it was asked for
	}
	return func(ctx context.Context) error {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(secure), grpc.WithUserAgent("muster-check"))
		if err != nil {
			return err
		}
		defer conn.Close()
		answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			return reason("grpc "+target, []byte(err.Error()))
		}
		if answer.Status != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("grpc %s: %v", target, answer.Status)
		}
		return nil
	}
}
