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
	text, kind := describe(h, x, err)
	switch {
	case caller.Err() != nil:
		return fmt.Errorf("docker: %s at %v: %w: %w: %s", what, h, driver.ErrUnavailable, caller.Err(), oneLine(err.Error()))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(x.err, context.DeadlineExceeded), errors.Is(x.err, os.ErrDeadlineExceeded):
		kind, text = driver.ErrUnavailable, fmt.Sprintf("no answer within %v; see whether the engine hangs, or set a longer timeout", c.timeout)
	}
	return fmt.Errorf("docker: %s at %v: %w: %s", what, h, kind, oneLine(text))
}

// describe says what came of a call, and of what kind that is.
func describe(h host, x *exchange, err error) (text string, kind error) {
	if x.err != nil {
		return unreachable(h, x.err)
	}
	text = strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	switch {
	case !x.sent, x.status == 0:
		return text, driver.ErrUnavailable
	case outdated(x):
		return text, driver.ErrUnavailable
	case x.status == http.StatusUnauthorized, x.status == http.StatusForbidden:
		return text + "; a proxy before the engine must let GET /_ping, /containers, /events and /networks through", driver.ErrDenied
	case x.hello && strings.Contains(text, "HTTPS server"):
		return "the engine demands TLS; set tls, or $" + envTLSVerify + " and $" + envCertPath, driver.ErrUnavailable
	case x.hello && x.status < 300:
		return text, driver.ErrInvalid // it speaks a version that we do not
	case x.hello && x.status < 500:
		return "the answer is not that of an engine: " + text, driver.ErrUnavailable
	case x.status == http.StatusNotFound:
		return text, driver.ErrNotFound
	case x.status >= 400 && x.status < 500:
		return text, driver.ErrInvalid
	case x.status < 300:
		return "the answer is not that of an engine: " + text, driver.ErrInvalid
	}
	return text, driver.ErrUnavailable
}

// unreachable is for what never became an answer.
func unreachable(h host, err error) (text string, kind error) {
	const mount = "start the engine, or mount its socket into this container (-v /var/run/docker.sock:/var/run/docker.sock)"
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "permission denied; " + admission(h), driver.ErrDenied
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such socket; " + mount, driver.ErrUnavailable
	case errors.Is(err, syscall.ECONNREFUSED) && h.local() && isDir(h.addr):
		return "it is a directory, as Docker makes one where a socket to be mounted is missing; remove it, start the engine and make this container anew", driver.ErrUnavailable
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused; " + mount, driver.ErrUnavailable
	case errors.As(err, &unknown):
		return "the certificate of the engine is signed by an authority that is not known; name it in tls.ca_file or, as ca.pem, below $" + envCertPath, driver.ErrUnavailable
	case errors.As(err, &name):
		return fmt.Sprintf("%v; dial the engine by that name, or set tls.server_name", name), driver.ErrUnavailable
	case strings.Contains(err.Error(), "remote error: tls:"):
		return "the engine refuses our certificate (" + err.Error() + "); set tls.cert_file and tls.key_file, or $" + envCertPath, driver.ErrDenied
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the engine does not speak TLS; take tls, $" + envTLSVerify + " and $" + envCertPath + " out, or write its port with TLS", driver.ErrUnavailable
	}
	return err.Error(), driver.ErrUnavailable
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
