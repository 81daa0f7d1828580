package discovery

import "github.com/musterhq/muster/discovery/driver"

// The kinds of error that registries, sessions and authorities return, to be tested with
// errors.Is. They are those of package driver, which only a provider needs.
var (
	// ErrUnavailable means that the provider could not be reached or did not answer in time.
	// The operation may or may not have happened. Try again.
	ErrUnavailable = driver.ErrUnavailable

	// ErrDenied means that the provider refused the caller's credentials or permissions.
	ErrDenied = driver.ErrDenied

	// ErrInvalid means that the request or the configuration is wrong, and stays wrong however
	// often it is tried.
	ErrInvalid = driver.ErrInvalid

	// ErrNotFound means that what was named does not exist.
	ErrNotFound = driver.ErrNotFound

	// ErrConflict means that the operation met another value than it wanted to replace:
	// another master, another revision.
	ErrConflict = driver.ErrConflict

	// ErrSessionLost means that a session or a grant has expired. It is an ErrNotFound.
	ErrSessionLost = driver.ErrSessionLost

	// ErrClusterMismatch means that the provider records another cluster id than the one that
	// the caller's cluster has: two clusters share a name. It is an ErrConflict.
	ErrClusterMismatch = driver.ErrClusterMismatch

	// ErrClosed means that the registry, session or authority was closed by its user. No
	// retry helps.
	ErrClosed = driver.ErrClosed

	// ErrUnsupported means that the provider lacks the ability.
	ErrUnsupported = driver.ErrUnsupported
)

// ConfigError is one thing that is wrong with a configuration. It is an ErrInvalid.
type ConfigError = driver.ConfigError

// AuthorityOptions say who asks an authority, for which cluster, and for how long a grant is to be.
type AuthorityOptions = driver.AuthorityOptions

// Revision orders the states of a provider. It rises with each change; 0 means unknown.
type Revision = driver.Revision

// Skipped is an entry of a provider that could not be read.
type Skipped = driver.Skipped

// Retryable reports whether another try of what returned err may succeed.
func Retryable(err error) bool { return driver.Retryable(err) }
