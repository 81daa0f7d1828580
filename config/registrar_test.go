package config

import (
	"os"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// What a registrar needs is neither a cluster nor somebody who grants mastership.
func TestPurpose(t *testing.T) {
	const provider = "provider: {stub: {peers: [\"10.0.0.5:7946\"]}}\n"
	for _, tt := range []struct {
		name, text string
		purpose    Purpose
		problem    string
	}{
		{"a node's", least, ForNode, ""},
		{"a node's for a registrar", least, ForRegistrar, "registers nothing"},
		{"no cluster", provider, ForNode, "cluster: "},
		{"no cluster for a registrar", provider, ForRegistrar, "registers nothing"},
		{"no provider", "registrar: {cleanup: true}\n", ForRegistrar, "provider: "},
		{"any with a section", provider + "registrar:\n", ForAny, "registers nothing"},
		{"any with services", provider + "services: [{name: db, address: \":1\"}]\n", ForAny, "registers nothing"},
		{"any with neither", provider, ForAny, "cluster: "},
		{"any of a node", least + "registrar: {cleanup: true}\n", ForAny, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := t.TempDir() + "/muster.yaml"
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Load(Options{Path: file, Env: []string{}, Purpose: tt.purpose})
			switch {
			case tt.problem == "" && err != nil:
				t.Error(err)
			case tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem) || strings.Contains(err.Error(), "\n")):
				t.Errorf("%v, want it to say %q and nothing else", err, tt.problem)
			}
			if err == nil && c.Registrar.Hostname != "" {
				t.Errorf("a node has the host name %q for a registrar", c.Registrar.Hostname)
			}
		})
	}
}

// What is found to be wrong later says where it stands, too.
func TestLocate(t *testing.T) {
	c := mustLoad(t, least+"registrar: {tags: [\"{{\"]}\n", nil)
	err := c.Locate(&driver.ConfigError{Key: "registrar.tags[0]", Value: "{{", Problem: "no template"})
	if err == nil || !strings.HasSuffix(err.Error(), `muster.yaml:3: registrar.tags[0]: "{{": no template`) {
		t.Errorf("%v", err)
	}
	if c.Locate(nil) != nil {
		t.Error("nil is located")
	}
}
