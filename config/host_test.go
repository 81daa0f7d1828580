package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A name of the host that cannot be an id is blamed on the host, once, and on no line of the
// file: nobody has written it there. One that is written is blamed on its line.
func TestNamesOfTheHost(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	const registrar = "provider: {stub: {peers: [\"10.0.0.5:7946\"]}}\n"
	for _, tt := range []struct {
		text    string
		purpose Purpose
		key     string
		set     string // the same key in the file
	}{
		{least, ForNode, "node.id", "node: {id: NAME}\n"},
		{registrar, ForRegistrar, "registrar.hostname", "registrar: {hostname: NAME}\n"},
	} {
		path := filepath.Join(t.TempDir(), "muster.yaml")
		load := func(text, host string, hostErr error) (problems []*Error) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Options{Path: path, Env: []string{}, Purpose: tt.purpose, Hostname: func() (string, error) { return host, hostErr }})
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				for _, err := range joined.Unwrap() {
					var fault *Error
					if errors.As(err, &fault) && fault.Key != "provider" { // that of the tests registers nothing
						problems = append(problems, fault)
					}
				}
			}
			return problems
		}
		for _, name := range []string{"a host", "höst", "a/b", "a:b", "a\tb", "a\x00b", "..", strings.Repeat("a", 129)} {
			problems := load(tt.text, name, nil)
			if len(problems) != 1 || problems[0].Key != tt.key || problems[0].Source != (Source{}) || !strings.Contains(problems[0].Hint, "set "+tt.key+" to one of letters") {
				t.Errorf("%s of host %q: %v", tt.key, name, problems)
			}
			// Whatever the host's name, one that is written counts.
			if problems := load(tt.text+strings.ReplaceAll(tt.set, "NAME", "good"), name, nil); len(problems) > 0 {
				t.Errorf("%s is set and the host is %q: %v", tt.key, name, problems)
			}
		}
		if problems := load(tt.text, "", errors.New("no name today")); len(problems) != 1 || problems[0].Key != tt.key || problems[0].Source != (Source{}) || !strings.Contains(problems[0].Problem, "no name today") {
			t.Errorf("%s of a host without a name: %v", tt.key, problems)
		}
		problems := load(tt.text+strings.ReplaceAll(tt.set, "NAME", "\"a host\""), "good", nil)
		if len(problems) != 1 || problems[0].Key != tt.key || problems[0].Source.Line != strings.Count(tt.text, "\n")+1 {
			t.Errorf("%s as written: %v", tt.key, problems)
		}
		for _, name := range []string{"h1", "h1.example.com", "H_1-x"} {
			if problems := load(tt.text, name, nil); len(problems) > 0 {
				t.Errorf("%s of host %q: %v", tt.key, name, problems)
			}
		}
	}
}
