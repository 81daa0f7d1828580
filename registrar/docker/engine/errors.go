package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/hint"
)

// ClosedError says that a proxy before the engine, or the engine itself, does not let a
// request through. It wraps driver.ErrDenied, and reads like it.
type ClosedError struct {
	// Path is what was asked for, such as /events or /containers/*/json.
	Path string
}

func (e *ClosedError) Error() string { return driver.ErrDenied.Error() }
func (e *ClosedError) Unwrap() error { return driver.ErrDenied }

// closed says what opens a path. The environment variables are those of the proxies that
// are in use most.
func closed(path string) string {
	open := fmt.Sprintf("let GET %s through the proxy before the engine", path)
	switch section, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); section {
	case "containers", "events", "info", "networks":
		open += fmt.Sprintf(" (%s=1 of docker-socket-proxy)", strings.ToUpper(section))
	case "_ping":
		open += " (PING=1 of docker-socket-proxy)"
	}
	return open
}

// isClosed reports whether an answer is that of a proxy which does not let the request
// through: an engine says no such thing of what only reads, and what it does not find it
// says in JSON.
func (x *responseCapture) isClosed() bool {
	switch x.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed:
		return true
	case http.StatusNotFound:
		said := x.message()
		return !x.hello && (said == "" || said == "page not found")
	}
	return false
}

// message is what an engine says in an answer that is an error, and nothing if it is none
// of an engine.
func (x *responseCapture) message() string {
	var said struct{ Message string }
	_ = json.Unmarshal(x.body, &said) // then it says nothing
	return said.Message
}

// failed wraps the error of one call in its kind: on one line what was attempted, where,
// what came of it, and the hint if there is one. caller is the context that the
// call was made with, whose end is distinguished from that of the call's own time.
func (c *Client) failed(caller context.Context, what string, h host, x *responseCapture, err error) error {
	problem, how, kind := describe(h, x, err)
	switch {
	case caller.Err() != nil:
		return fmt.Errorf("docker: %s at %v: %w: %w: %s", what, h, driver.ErrUnavailable, caller.Err(), oneLine(err.Error()))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(x.err, context.DeadlineExceeded), errors.Is(x.err, os.ErrDeadlineExceeded):
		kind, problem = driver.ErrUnavailable, fmt.Sprintf("no answer within %v", c.timeout)
		how = "see whether the engine hangs, or set a longer timeout"
	}
	return hint.With(fmt.Errorf("docker: %s at %v: %w: %s", what, h, kind, oneLine(problem)), oneLine(how))
}

// describe says what came of a call, how to fix it as far as that is known, and of what kind it is.
func describe(h host, x *responseCapture, err error) (problem, how string, kind error) {
	if x.err != nil {
		return unreachable(h, x.err)
	}
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	switch {
	case !x.sent, x.status == 0:
		return text, "", driver.ErrUnavailable
	case outdated(x):
		return text, "", driver.ErrUnavailable
	case x.isClosed():
		if said := x.message(); said != "" && said != "page not found" {
			return fmt.Sprintf("%s (status %d for %s)", said, x.status, x.path), closed(x.path), &ClosedError{x.path}
		}
		return fmt.Sprintf("status %d for %s", x.status, x.path), closed(x.path), &ClosedError{x.path}
	case x.hello && strings.Contains(text, "HTTPS server"):
		return "the engine demands TLS", "set tls, or $" + envTLSVerify + " and $" + envCertPath, driver.ErrUnavailable
	case x.hello && x.status < 300:
		return text, "", driver.ErrInvalid // it speaks a version that we do not
	case x.hello && x.status < 500:
		return "the answer is not that of an engine: " + text, "", driver.ErrUnavailable
	case x.status == http.StatusNotFound:
		return text, "", driver.ErrNotFound
	case x.status >= 400 && x.status < 500:
		return text, "", driver.ErrInvalid
	case x.status < 300:
		return "the answer is not that of an engine: " + text, "", driver.ErrInvalid
	}
	return text, "", driver.ErrUnavailable
}

// unreachable is for what never became an answer.
func unreachable(h host, err error) (problem, how string, kind error) {
	const mount = "start the engine, or mount its socket into this container (-v /var/run/docker.sock:/var/run/docker.sock)"
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "permission denied", admission(h), driver.ErrDenied
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such socket", mount, driver.ErrUnavailable
	case errors.Is(err, syscall.ECONNREFUSED) && h.local() && isDir(h.addr):
		return "it is a directory, as Docker makes one where a socket to be mounted is missing", "remove it, start the engine and make this container again", driver.ErrUnavailable
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", mount, driver.ErrUnavailable
	case errors.As(err, &unknown):
		return "the certificate of the engine is signed by an authority that is not known", "name it in tls.ca_file or, as ca.pem, below $" + envCertPath, driver.ErrUnavailable
	case errors.As(err, &name):
		return name.Error(), "dial the engine by that name, or set tls.server_name", driver.ErrUnavailable
	case strings.Contains(err.Error(), "remote error: tls:"):
		return "the engine refuses our certificate (" + err.Error() + ")", "set tls.cert_file and tls.key_file, or $" + envCertPath, driver.ErrDenied
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the engine does not speak TLS", "take tls, $" + envTLSVerify + " and $" + envCertPath + " out, or write its port with TLS", driver.ErrUnavailable
	}
	return err.Error(), "", driver.ErrUnavailable
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
func outdated(x *responseCapture) bool {
	return x.status == http.StatusBadRequest && strings.Contains(string(x.body), "client version")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
