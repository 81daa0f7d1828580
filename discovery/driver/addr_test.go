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
	for _, bad := range []string{"0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "0:1", "00.0:1", ".:1", ":1", "a:0", "a:65536", "a", "a b:1", "::1:80", "[fe80::1%eth0]:1", "[fe80::1%2]:1", "[2001:db8::1%x]:1"} {
		if driver.ValidateAddr(bad) == nil {
			t.Errorf("%s can be dialled", bad)
		}
	}
}

func TestValidateName(t *testing.T) {
	for _, good := range []string{"", "web", "a:b", "team/web", "büro", "日本", "web.1_2-3"} {
		if err := driver.ValidateName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{" ", "a b", "a\t", "\n", "\x00", "\x7f", "a\u00a0b", "a\u200bb", "\u202e", "\xff", "\x1b[0m"} {
		if driver.ValidateName(bad) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
}

func TestConfigErrorHidesThePasswordOfAURL(t *testing.T) {
	for value, want := range map[string]string{
		"http://me:hush@10.0.0.5:1/x?y": "http://me:[redacted]@10.0.0.5:1/x?y",
		"http://me@10.0.0.5":            "http://me@10.0.0.5",
		"http://me:hush@10.0.0.5 x%zz":  "[redacted]",
		"me@example.org":                "me@example.org",
		"10.0.0.5:7946":                 "10.0.0.5:7946",
	} {
		err := &driver.ConfigError{Key: "address", Value: value, Problem: "no"}
		if got, want := err.Error(), `address: "`+want+`": no`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
