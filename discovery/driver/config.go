package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
)

// ConfigError is one thing that is wrong with a configuration. Package
// node/config adds where the key stands.
type ConfigError struct {
	// Key is the path of the key below the provider's section: "tls.ca_file".
	Key string
	// Value is what was given, as the user would recognise it; a secret is
	// redacted. Error hides the password of a URL.
	Value string
	// Problem says what is wrong and how it is mended, in one line.
	Problem string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: %q: %s", e.Key, RedactURL(e.Value), e.Problem)
}

// Is makes every ConfigError an ErrInvalid.
func (e *ConfigError) Is(target error) bool { return target == ErrInvalid }

// Secret is a string that never prints itself. Convert it to string to use it.
type Secret string

const redacted = "[redacted]"

// RedactURL returns text without the password, if it is a URL that has one.
func RedactURL(text string) string {
	if !strings.Contains(text, "@") || !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return redacted // not quite a URL, and so not known where its password ends
	}
	if _, has := u.User.Password(); !has {
		return text
	}
	name := u.User.Username()
	u.User = nil
	rest := strings.TrimPrefix(u.String(), u.Scheme+":")
	return fmt.Sprintf("%s://%s:%s@%s", u.Scheme, url.PathEscape(name), redacted, strings.TrimPrefix(rest, "//"))
}

// String returns a fixed text in place of the secret, or nothing for none.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue redacts the secret in log records.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText redacts the secret in JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Or returns the secret, or where it is empty the content of file without the
// white space around it. Both empty is no error. The file is read at each call,
// so that a rotated secret is picked up.
func (s Secret) Or(file string) (Secret, error) {
	if s != "" || file == "" {
		return s, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return Secret(strings.TrimSpace(string(b))), nil
}

// reason strips the path that an *os.PathError repeats.
func reason(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
