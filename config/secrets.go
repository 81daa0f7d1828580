package config

import (
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/decode"
	"github.com/musterhq/muster/secret"
)

// Secrets returns the values of all keys that are secrets, and what the files hold that keys like
// token_file and password_file name and that can be read, so that a text can be searched for them.
func (c *Config) Secrets() []secret.String {
	var all []secret.String
	var collect func(key string, v reflect.Value)
	collect = func(key string, v reflect.Value) {
		switch {
		case v.Type() == secretType:
			all = append(all, v.Interface().(secret.String))
		case v.Kind() == reflect.String && isSecretFile(key):
			if value, err := secret.String("").Or(v.String()); err == nil {
				all = append(all, value)
			}
		case v.Kind() == reflect.Slice:
			for k := range v.Len() {
				collect(key, v.Index(k))
			}
		case v.Kind() == reflect.Map:
			for _, value := range v.Seq2() {
				collect(key, value)
			}
		case v.Kind() == reflect.Struct:
			for k := range v.NumField() {
				if name, inline := decode.Key(v.Type().Field(k)); name != "" || inline {
					collect(name, v.Field(k))
				}
			}
		}
	}
	for key, value := range c.values() {
		collect(key, reflect.ValueOf(value))
	}
	return slices.DeleteFunc(all, func(s secret.String) bool { return s == "" })
}

// isSecretFile reports whether a key names a file that holds a secret as text.
func isSecretFile(key string) bool {
	return strings.HasSuffix(key, "token_file") || strings.HasSuffix(key, "password_file")
}

// ShowEnviron returns the variables that configure Muster, of pairs NAME=VALUE or of the process if
// that is nil, as they may be shown: secrets and the passwords of URLs are redacted, and so is the
// value of each variable that is not known. secrets are the values that it has redacted.
func ShowEnviron(pairs []string) (shownPairs []string, secrets []secret.String, err error) {
	s, err := knownSchema()
	if err != nil {
		return nil, nil, err
	}
	if pairs == nil {
		pairs = os.Environ()
	}
	known := make(map[string]*entry)
	for _, e := range s.values {
		known[e.env()] = e
	}
	for _, pair := range slices.Sorted(slices.Values(pairs)) {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !strings.HasPrefix(name, envPrefix) {
			continue
		}
		text := decode.Redacted
		switch e := known[name]; {
		case e != nil && !e.secret():
			text = shownFor(e, value)
		case slices.Contains(plainVariables, name):
			text = shown(value)
		default:
			secrets = append(secrets, secretsOf(e, value)...)
		}
		shownPairs = append(shownPairs, name+"="+text)
	}
	return shownPairs, secrets, nil
}

// plainVariables name a file or an address, and are no keys.
var plainVariables = []string{envPrefix + "CONFIG", envPrefix + "AGENT", envPrefix + "AGENT_TOKEN_FILE", envPrefix + "AGENT_CA_FILE",
	envPrefix + "AGENT_CERT_FILE", envPrefix + "AGENT_KEY_FILE"}

// secretsOf are the secrets in the value of a variable: itself, or the items of a list or a map.
func secretsOf(e *entry, value string) []secret.String {
	all := []secret.String{secret.String(value)}
	if e == nil || decode.IsScalar(e.typ) {
		return all
	}
	for item := range strings.SplitSeq(value, ",") {
		if _, text, ok := strings.Cut(item, "="); ok && e.typ.Kind() == reflect.Map {
			item = text
		}
		all = append(all, secret.String(item))
	}
	return all
}
