package config

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// Whatever form an error has that names a key: what it says where the value was given, and it
// stays what it is.
func TestLocateByText(t *testing.T) {
	c := mustLoad(t, least+"node: {bind: \"127.0.0.1:7946\"}\n", []string{"MUSTER_NODE_DATA_DIR=/tmp/x"})
	file := c.Source("node.bind").place()
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"the file":         {fmt.Errorf("node.bind: link: %w", syscall.EADDRINUSE), file + ": node.bind: link: address already in use"},
		"the environment":  {fmt.Errorf("%w: node.data_dir: %q is in use", driver.ErrConflict, "/tmp/x"), `MUSTER_NODE_DATA_DIR: conflict: node.data_dir: "/tmp/x" is in use`},
		"a default":        {errors.New("http.addr: in use"), "http.addr: in use"},
		"no key":           {errors.New("membership: port 7: bad luck"), "membership: port 7: bad luck"},
		"a section":        {errors.New("tls: bad record"), "tls: bad record"},
		"in a sentence":    {errors.New("write node.bind, or leave it out"), "write node.bind, or leave it out"},
		"several wrapped":  {fmt.Errorf("%w: node.bind: %w", driver.ErrUnavailable, syscall.EACCES), file + ": " + driver.ErrUnavailable.Error() + ": node.bind: permission denied"},
		"joined":           {errors.Join(errors.New("node.bind: one"), errors.New("two")), file + ": node.bind: one\ntwo"},
		"located already":  {&Error{Source: Source{Flag: "x"}, Key: "node.bind", Value: "v", Problem: "p"}, `--x: node.bind: "v": p`},
		"of the framework": {fmt.Errorf("start: %w", &driver.ConfigError{Key: "node.bind", Value: "v", Problem: "p"}), file + `: start: node.bind: "v": p`},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.Locate(test.err)
			if got == nil || got.Error() != test.want {
				t.Errorf("%v, want %s", got, test.want)
			}
			for _, kind := range []error{syscall.EADDRINUSE, syscall.EACCES, driver.ErrConflict, driver.ErrUnavailable} {
				if errors.Is(test.err, kind) != errors.Is(got, kind) {
					t.Errorf("%v is %v, and was not, or the reverse", got, kind)
				}
			}
		})
	}
}
