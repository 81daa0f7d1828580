package docker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/musterhq/muster/discovery/driver"
)

// failed wraps the error of one call in its kind: on one line what was attempted, where,
// what came of it, and the mend where there is one. caller is the context that the
// call was made with, whose end is told from that of the call's own time.
func (c *Client) failed(caller context.Context, what string, h host, x *exchange, err error) error {
	kind, text := c.describe(h, x, err)
	switch {
	case caller.Err() != nil:
		return fmt.Errorf("docker: %s at %v: %w: %w: %s", what, h, driver.ErrUnavailable, caller.Err(), oneLine(err.Error()))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(x.err, context.DeadlineExceeded), errors.Is(x.err, os.ErrDeadlineExceeded):
		kind, text = driver.ErrUnavailable, fmt.Sprintf("no answer within %v; see whether the engine hangs, or set a longer timeout", c.timeout)
	}
	return fmt.Errorf("docker: %s at %v: %w: %s", what, h, kind, oneLine(text))
}

func (c *Client) describe(h host, x *exchange, err error) (kind error, text string) {
	if x.err != nil {
		return unreachable(h, x.err)
	}
	text = strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	switch {
	case !x.sent, x.status == 0:
		return driver.ErrUnavailable, text
	case outdated(x):
		return driver.ErrUnavailable, text
	case x.status == http.StatusUnauthorized, x.status == http.StatusForbidden:
		return driver.ErrDenied, text + "; a proxy before the engine must let GET /_ping, /containers, /events and /networks through"
	case x.hello && strings.Contains(text, "HTTPS server"):
		return driver.ErrUnavailable, "the engine demands TLS; set tls, or $" + envTLSVerify + " and $" + envCertPath
	case x.hello && x.status < 300:
		return driver.ErrInvalid, text // it speaks a version that we do not
	case x.hello && x.status < 500:
		return driver.ErrUnavailable, "the answer is not that of an engine: " + text
	case x.status == http.StatusNotFound:
		return driver.ErrNotFound, text
	case x.status >= 400 && x.status < 500:
		return driver.ErrInvalid, text
	case x.status < 300:
		return driver.ErrInvalid, "the answer is not that of an engine: " + text
	}
	return driver.ErrUnavailable, text
}

// unreachable is for what never became an answer.
func unreachable(h host, err error) (kind error, text string) {
	const mount = "start the engine, or mount its socket into this container (-v /var/run/docker.sock:/var/run/docker.sock)"
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return driver.ErrDenied, "permission denied; " + admission(h)
	case errors.Is(err, fs.ErrNotExist):
		return driver.ErrUnavailable, "there is no such socket; " + mount
	case errors.Is(err, syscall.ECONNREFUSED) && h.local() && isDir(h.addr):
		return driver.ErrUnavailable, "it is a directory, as Docker makes one where a socket to be mounted is missing; remove it, start the engine and make this container anew"
	case errors.Is(err, syscall.ECONNREFUSED):
		return driver.ErrUnavailable, "connection refused; " + mount
	case errors.As(err, &unknown):
		return driver.ErrUnavailable, "the certificate of the engine is signed by an authority that is not known; name it in tls.ca_file or, as ca.pem, below $" + envCertPath
	case errors.As(err, &name):
		return driver.ErrUnavailable, fmt.Sprintf("%v; dial the engine by that name, or set tls.server_name", name)
	case strings.Contains(err.Error(), "remote error: tls:"):
		return driver.ErrDenied, "the engine refuses our certificate (" + err.Error() + "); set tls.cert_file and tls.key_file, or $" + envCertPath
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return driver.ErrUnavailable, "the engine does not speak TLS; take tls, $" + envTLSVerify + " and $" + envCertPath + " out, or write its port with TLS"
	}
	return driver.ErrUnavailable, err.Error()
}

// admission says what lets this process use a socket.
func admission(h host) string {
	if h.network == "unix" {
		if gid, ok := groupOf(h.addr); ok {
			return fmt.Sprintf("run as a member of group %d, which the socket belongs to (docker run --group-add %d), or as root", gid, gid)
		}
	}
	return "run as a user who may use the engine"
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// outdated reports whether the engine no longer speaks the version of the API that was
// agreed on, as after its upgrade.
func outdated(x *exchange) bool {
	return x.status == http.StatusBadRequest && strings.Contains(string(x.body), "client version")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
