package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/discovery/driver"
)

// failed wraps the error of one call in its kind. What the user reads is what was
// attempted and what etcd said.
func failed(ctx context.Context, what string, err error) error {
	code, text := describe(err)
	if ended := ctx.Err(); ended != nil {
		// gRPC says in the text why it could not connect.
		return fmt.Errorf("etcd: %s: %w: %w: %s", what, driver.ErrUnavailable, ended, text)
	}
	return fmt.Errorf("etcd: %s: %w: %s", what, kind(code, text), text)
}

// describe takes the code and the text from an error of the etcd client, which
// has two ways to carry them.
func describe(err error) (codes.Code, string) {
	var e rpctypes.EtcdError
	if errors.As(rpctypes.Error(err), &e) {
		return e.Code(), e.Error()
	}
	s := status.Convert(err)
	return s.Code(), s.Message()
}

func kind(code codes.Code, text string) error {
	switch text {
	case desc(rpctypes.ErrGRPCUserEmpty), desc(rpctypes.ErrGRPCAuthFailed), desc(rpctypes.ErrGRPCUserNotFound):
		return driver.ErrDenied
	case desc(rpctypes.ErrGRPCAuthOldRevision):
		return driver.ErrUnavailable // someone changed users or roles; the next call knows
	case desc(rpctypes.ErrGRPCCompacted), desc(rpctypes.ErrGRPCFutureRev):
		return driver.ErrCompacted
	}
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated:
		return driver.ErrDenied
	case codes.InvalidArgument, codes.OutOfRange:
		return driver.ErrInvalid
	case codes.ResourceExhausted:
		// The client's own bound on a request. Others of this code may pass, as a full disk.
		if strings.Contains(text, "larger than max") {
			return driver.ErrInvalid
		}
	case codes.NotFound:
		return driver.ErrNotFound
	case codes.Unimplemented:
		return driver.ErrUnsupported
	case codes.Unavailable:
		// The server's refusal of our certificate. In TLS 1.3 it comes after the
		// handshake and looks like a broken connection.
		if strings.Contains(text, "remote error: tls:") {
			return driver.ErrDenied
		}
	}
	return driver.ErrUnavailable
}

// stale reports whether etcd refused a call because of a token that it does not
// know, or no longer. It has done nothing, and another token may help.
func stale(err error) bool {
	if err == nil {
		return false
	}
	switch _, text := describe(err); text {
	case desc(rpctypes.ErrGRPCInvalidAuthToken), desc(rpctypes.ErrGRPCAuthOldRevision), desc(rpctypes.ErrGRPCUserEmpty):
		return true
	}
	return false
}

func leaseGone(err error) bool {
	_, text := describe(err)
	return text == desc(rpctypes.ErrGRPCLeaseNotFound)
}

func desc(err error) string { return rpctypes.ErrorDesc(err) }

// reason strips the path that an *os.PathError repeats.
func reason(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
