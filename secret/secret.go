// Package secret has the type of passwords and tokens in configurations.
package secret

import (
	"log/slog"
	"strings"

	"github.com/musterhq/muster/internal/smallfile"
)

// String is a string that never prints itself. Convert it to string to use it.
type String string

const redacted = "[redacted]"

// String returns a fixed text in place of the secret, or nothing for none.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString is String, for %#v.
func (s String) GoString() string { return s.String() }

// LogValue redacts the secret in log records.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText redacts the secret in JSON and YAML.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Or returns the secret, or if it is empty the content of file without the
// white space around it. Both empty is no error. The file is read at each call,
// so that a rotated secret is picked up; it has to be a regular one of 1 MiB at most.
func (s String) Or(file string) (String, error) {
	if s != "" || file == "" {
		return s, nil
	}
	b, err := smallfile.Read(file)
	if err != nil {
		return "", err
	}
	return String(strings.TrimSpace(string(b))), nil
}
