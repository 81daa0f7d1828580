package driver_test

import (
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

func TestValidateAddr(t *testing.T) {
	for _, good := range []string{"10.0.0.5:7946", "[fd00::5]:1", "node-1:65535", "my_host.internal:80", "482910375566:7946"} {
		if err := driver.ValidateAddr(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "0:1", "00.0:1", ".:1", ":1", "a:0", "a:65536", "a", "a b:1", "::1:80"} {
		if driver.ValidateAddr(bad) == nil {
			t.Errorf("%s can be dialled", bad)
		}
	}
}

func TestRedactURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://me:hush@10.0.0.5:1/x?y": "http://me:[redacted]@10.0.0.5:1/x?y",
		"http://me@10.0.0.5":            "http://me@10.0.0.5",
		"http://me:hush@10.0.0.5 x%zz":  "[redacted]",
		"me@example.org":                "me@example.org",
		"10.0.0.5:7946":                 "10.0.0.5:7946",
	} {
		if got := driver.RedactURL(text); got != want {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
	}
	err := &driver.ConfigError{Key: "address", Value: "http://me:hush@a", Problem: "no"}
	if got, want := err.Error(), `address: "http://me:[redacted]@a": no`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
