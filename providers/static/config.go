package static

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// DefaultRefresh is how often names are looked up and the file is read again
// unless Config.Refresh says otherwise.
const DefaultRefresh = 10 * time.Second

// Config is the section provider.static.
type Config struct {
	// Peers are the HOST:PORT of the nodes, this one among them. They are the
	// voters of the cluster, and a host may be a name, which is resolved when it is
	// dialled.
	Peers []string `yaml:"peers"`

	// File is the path of a file with more of them, which is read again whenever it
	// changes: one HOST:PORT on a line, blank lines and what follows a "#" ignored.
	File string `yaml:"file"`

	// DNS are names to look up: HOST:PORT for the addresses of HOST, or
	// _SERVICE._PROTO.NAME for the targets and ports of its SRV records. What they
	// yield are peers to join and never voters.
	DNS []string `yaml:"dns"`

	// Refresh is how often names are looked up and the file is read even if no
	// change was reported, a little more or less. Default: DefaultRefresh; the
	// least is 100 ms.
	Refresh time.Duration `yaml:"refresh"`
}

const minRefresh = 100 * time.Millisecond

// Validate joins all that is wrong with the configuration into one error of
// *driver.ConfigError values.
func (c Config) Validate() error {
	var errs []error
	fail := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	if len(c.Peers) == 0 && c.File == "" && len(c.DNS) == 0 {
		fail("peers", "", "no peer is configured", "name HOST:PORT of the nodes in peers, a file of them in file, or names to look up in dns")
	}
	seen := make(map[string]int)
	for i, peer := range c.Peers {
		key := fmt.Sprintf("peers[%d]", i)
		canonical, problem, hint := parseAddr(peer)
		if problem != "" {
			fail(key, peer, problem, hint)
			continue
		}
		if first, ok := seen[canonical]; ok {
			fail(key, peer, fmt.Sprintf("is the same as peers[%d]", first), "list each node once")
			continue
		}
		seen[canonical] = i
	}
	if c.File != "" {
		if _, problem, hint := readFile(c.File); problem != "" {
			fail("file", c.File, problem, hint)
		}
	}
	seenName := make(map[string]int)
	for i, name := range c.DNS {
		key := fmt.Sprintf("dns[%d]", i)
		if _, problem, hint := parseName(name); problem != "" {
			fail(key, name, problem, hint)
		}
		if first, ok := seenName[strings.ToLower(name)]; ok {
			fail(key, name, fmt.Sprintf("is the same as dns[%d]", first), "list each name once")
		}
		seenName[strings.ToLower(name)] = i
	}
	if c.Refresh != 0 && c.Refresh < minRefresh {
		fail("refresh", c.Refresh.String(), fmt.Sprintf("is less than %v", minRefresh), fmt.Sprintf("leave it out for %v", DefaultRefresh))
	}
	return errors.Join(errs...)
}

// parseAddr returns the one spelling under which all nodes know addr, or what is
// wrong with it.
func parseAddr(addr string) (canonical, problem, hint string) {
	if err := driver.ValidateAddr(addr); err != nil {
		problem, hint = why(addr)
		return "", problem, hint
	}
	if host, _, err := net.SplitHostPort(addr); err == nil && net.ParseIP(host) == nil && strings.Trim(host, "0123456789.") == "" {
		return "", "is not an IP address", "write four numbers up to 255"
	}
	return driver.CanonicalAddr(addr), "", ""
}

// why says what is wrong with an address that did not pass driver.ValidateAddr,
// and how to fix it.
func why(addr string) (problem, hint string) {
	host, port, err := net.SplitHostPort(addr)
	_, number := strconv.ParseUint(addr, 10, 16)
	switch ip := net.ParseIP(host); {
	case number == nil:
		return "is a port without a host", "name an address of the node, such as 10.0.0.5:" + addr
	case err != nil && strings.Contains(err.Error(), "missing port"):
		return "has no port", "write HOST:PORT, such as " + net.JoinHostPort(strings.Trim(addr, "[]"), "7946")
	case err != nil:
		return "is not HOST:PORT", "write IPv6 in brackets, such as [fd00::5]:7946"
	case host == "":
		return "has no host", "name an address of the node, such as 10.0.0.5:" + port
	case strings.Contains(host, "%"):
		return "has a zone, which means something on one host alone", "name an address without one"
	case ip != nil && ip.IsUnspecified():
		return "nobody can dial " + host, "name an address of the node, such as 10.0.0.5:" + port
	default:
		return fmt.Sprintf("port %q is not one", port), "write a number from 1 to 65535"
	}
}

// bare strips the path that an *os.PathError repeats.
func bare(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
