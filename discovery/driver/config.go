package driver

import (
	"fmt"
	"net/url"
	"strings"
)

// ConfigError is one thing that is wrong with a configuration. Package
// config adds where the key stands.
type ConfigError struct {
	// Key is the path of the key below the provider's section: "tls.ca_file".
	Key string
	// Value is what was given, as the user would recognise it; a secret is
	// redacted. Error hides the password of a URL.
	Value string
	// Problem says what is wrong, in one line.
	Problem string
	// Hint says how to fix it, in one line. Empty if Problem says enough.
	Hint string
}

// Error is one line: "key: value: problem; hint".
func (e *ConfigError) Error() string {
	text := fmt.Sprintf("%s: %q: %s", e.Key, redacted(e.Value), e.Problem)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Is makes every ConfigError an ErrInvalid.
func (e *ConfigError) Is(target error) bool { return target == ErrInvalid }

// redacted returns text without the password, if it is a URL that has one.
func redacted(text string) string {
	if !strings.Contains(text, "@") || !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "[redacted]" // not quite a URL, and so not known where its password ends
	}
	return strings.Replace(u.Redacted(), ":xxxxx@", ":[redacted]@", 1)
}
