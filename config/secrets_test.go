package config

import (
	"bytes"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/decode"
)

// No error repeats what a secret holds, whatever its shape and whatever is wrong with it.
func TestErrorsRedactSecrets(t *testing.T) {
	const secret = "hunter2"
	for _, v := range []struct{ name, yaml, env string }{
		{name: "a map without =", env: "MUSTER_PROVIDER_STUB_HEADERS=hunter2"},
		{name: "a map with a second item without =", env: "MUSTER_PROVIDER_STUB_HEADERS=a=b,hunter2"},
		{name: "a map without a name", env: "MUSTER_PROVIDER_STUB_HEADERS==hunter2"},
		{name: "a misspelled variable", env: "MUSTER_PROVIDER_STUB_PASWORD=hunter2"},
		{name: "a variable of no provider", env: "MUSTER_PROVIDER_STAB_PASSWORD=hunter2"},
		{name: "a token that is too short", env: "MUSTER_HTTP_TOKEN=hunter2"},
		{name: "a short token in the file", yaml: "http: {token: hunter2}"},
		{name: "a list for a token", yaml: "http: {token: [hunter2]}"},
		{name: "text for a map", yaml: "provider: {stub: {headers: hunter2}}"},
		{name: "a list for a map", yaml: "provider: {stub: {headers: [hunter2]}}"},
		{name: "a list in a map", yaml: "provider: {stub: {headers: {a: [hunter2]}}}"},
		{name: "a section in a map", yaml: "provider: {stub: {headers: {a: {b: hunter2}}}}"},
		{name: "a tag in a map", yaml: "provider: {stub: {headers: {a: !!binary hunter2}}}"},
		{name: "a list for text", yaml: "provider: {stub: {password: [hunter2]}}"},
		{name: "a section for text", yaml: "provider: {stub: {password: {a: hunter2}}}"},
		{name: "a tag on text", yaml: "provider: {stub: {password: !!binary hunter2}}"},
		{name: "text for a list", yaml: "provider: {stub: {keys: hunter2}}"},
		{name: "a map for a list", yaml: "provider: {stub: {keys: {a: hunter2}}}"},
		{name: "a section in a list", yaml: "provider: {stub: {keys: [{a: hunter2}]}}"},
		{name: "a misspelled key", yaml: "provider: {stub: {headrs: hunter2}}"},
		{name: "text for a section with a secret", yaml: "http: hunter2"},
		{name: "text for a provider", yaml: "provider: {stub: hunter2}"},
		{name: "text for all providers", yaml: "provider: hunter2"},
		{name: "text for a list of sections", yaml: "services: hunter2"},
		{name: "text for one of a list", yaml: "services: [hunter2]"},
		{name: "text for a section of one of a list", yaml: "services: [{name: db, check: hunter2}]"},
		{name: "an unknown key beside a secret", yaml: "provider: {stub: {auth: hunter2}}"},
		{name: "another one", yaml: "provider: {stub: {x: hunter2}}"},
		{name: "a secret of another section", yaml: "registrar: {token: hunter2}"},
		{name: "a key that looks secret", yaml: "provider: {stub: {api_token: hunter2}}"},
		{name: "text that is an alias", yaml: "provider: {stub: {password: *hunter2 }}"},
		{name: "an anchor that holds itself", yaml: "provider: {stub: {password: &hunter2 [*hunter2 ]}}"},
		{name: "text that is a tag", yaml: "provider: {stub: {password: !hunter2 x}}"},
		{name: "text in a map that is a tag", yaml: "provider: {stub: {headers: {a: !hunter2 x}}}"},
		{name: "text in a list that is a tag", yaml: "provider: {stub: {keys: [!hunter2 x]}}"},
		{name: "a name twice", yaml: "provider: {stub: {headers: {a: hunter2, a: hunter2}}}"},
	} {
		t.Run(v.name, func(t *testing.T) {
			text := least + v.yaml
			if strings.HasPrefix(v.yaml, "provider: ") {
				text = "cluster: orders\n" + v.yaml
			}
			_, err := load(t, text+"\n", []string{v.env})
			if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "given twice") {
				t.Errorf("%v", err)
			}
			if err != nil && !strings.Contains(err.Error(), decode.Redacted) && !strings.Contains(err.Error(), "no such variable") {
				t.Errorf("nothing is redacted: %v", err)
			}
		})
	}
}

// Nor is it shown of a configuration with which nothing is wrong.
func TestShowRedactsSecrets(t *testing.T) {
	c := mustLoad(t, strings.Replace(least, "stub: {", `stub: {headers: {Authorization: hunter2}, keys: [hunter2, "hunter2"], password: hunter2, `, 1)+
		"http: {token: hunter2-hunter2-hunter2}\n", nil)
	var out bytes.Buffer
	if err := c.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"{Authorization: '[redacted]'}", "['[redacted]', '[redacted]']", "password: '[redacted]'", "token: '[redacted]'"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("a secret is shown:\n%s", out.String())
	}
}
