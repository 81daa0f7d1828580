package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// failed wraps the error of one call in its kind. What the user reads is what was
// attempted and what Consul said.
func failed(ctx context.Context, what string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("consul: %s: %w: %w: %s", what, driver.ErrUnavailable, ended, text(err))
	}
	return fmt.Errorf("consul: %s: %w: %s", what, kind(err), text(err))
}

// kind returns the kind of err. Consul answers most things with 500; what
// it means by that is in the text.
func kind(err error) error {
	var status api.StatusError
	if !errors.As(err, &status) {
		switch what := err.Error(); { // what is said of a transaction comes as text
		case errors.Is(err, driver.ErrInvalid): // our own: a path that stands for another
			return driver.ErrInvalid
		case strings.Contains(what, "Permission denied"), strings.Contains(what, "ACL not found"):
			return driver.ErrDenied
		case strings.Contains(what, "too large"):
			return driver.ErrInvalid
		}
		// The agent's refusal of our certificate. In TLS 1.3 it comes after the
		// handshake and looks like a broken connection.
		if strings.Contains(err.Error(), "remote error: tls:") {
			return driver.ErrDenied
		}
		return driver.ErrUnavailable
	}
	switch {
	case status.Code == http.StatusForbidden, status.Code == http.StatusUnauthorized,
		strings.Contains(status.Body, "Permission denied"), strings.Contains(status.Body, "ACL not found"):
		return driver.ErrDenied
	case status.Code == http.StatusBadRequest, status.Code == http.StatusRequestEntityTooLarge:
		return driver.ErrInvalid
	}
	return driver.ErrUnavailable
}

// said reports whether Consul said text in answer.
func said(err error, text string) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, text)
}

// unknown reports whether Consul does not know the service or check that the call was
// about. Any other 404 is not of Consul.
func unknown(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound &&
		(strings.Contains(status.Body, "nknown check") || strings.Contains(status.Body, "nknown service"))
}

// errForeign is the error of an answer without Consul's index. With the answer 404 it
// would be an empty set to Consul's client: an ingress gives that, or a proxy, whose
// backend is gone.
func errForeign(what string) error {
	return fmt.Errorf("consul: %s: %w: the answer is not one of Consul; is something else at its address?", what, driver.ErrUnavailable)
}

func text(err error) string {
	var status api.StatusError
	if errors.As(err, &status) {
		return fmt.Sprintf("%d %s", status.Code, strings.TrimSpace(status.Body))
	}
	return err.Error()
}

// reason strips the path that an *os.PathError repeats.
func reason(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
