package static

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Resolver is the part of *net.Resolver that the provider uses.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// name is an entry of Config.DNS.
type name struct {
	host, port string // of HOST:PORT
	srv        string // of _SERVICE._PROTO.NAME
}

// parseName returns the parts of an entry of Config.DNS, or what is wrong with it.
func parseName(s string) (n name, problem, hint string) {
	if strings.HasPrefix(s, "_") {
		labels := strings.Split(strings.TrimSuffix(s, "."), ".")
		if len(labels) < 3 || !strings.HasPrefix(labels[1], "_") || strings.Contains(s, ":") {
			return n, "is no name of SRV records", "write _SERVICE._PROTO.NAME, such as _muster._tcp.example.org, without a port"
		}
		return name{srv: s}, "", ""
	}
	if err := driver.ValidateAddr(s); err != nil {
		problem, hint = why(s)
		return n, problem, hint
	}
	host, port, _ := net.SplitHostPort(s)
	return name{host: host, port: port}, "", ""
}

// lookUp returns the addresses of entry, which is dns[index].
func lookUp(ctx context.Context, r Resolver, index int, entry string) ([]string, error) {
	n, problem, hint := parseName(entry)
	if problem != "" {
		return nil, &driver.ConfigError{Key: fmt.Sprintf("dns[%d]", index), Value: entry, Problem: problem, Hint: hint}
	}
	unresolvable := func(err error) error {
		hint := "check the name and the name server"
		var dnsErr *net.DNSError
		if errors.As(err, &dnsErr) && dnsErr.IsNotFound {
			hint = "there is no such name, or none yet; check it"
		}
		return fmt.Errorf("%w: dns[%d]: %q: unresolvable name: %v; %s", driver.ErrUnavailable, index, entry, err, hint)
	}
	var addrs []string
	if n.srv == "" {
		hosts, err := r.LookupHost(ctx, n.host)
		if err != nil {
			return nil, unresolvable(err)
		}
		for _, h := range hosts {
			addrs = append(addrs, net.JoinHostPort(h, n.port))
		}
		return addrs, nil
	}
	// A name server that answers with some bad records makes the resolver return
	// the good ones and an error. Part of a set is none.
	_, records, err := r.LookupSRV(ctx, "", "", n.srv)
	if err != nil {
		return nil, unresolvable(err)
	}
	for _, rec := range records {
		addrs = append(addrs, net.JoinHostPort(strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port))))
	}
	return addrs, nil
}
