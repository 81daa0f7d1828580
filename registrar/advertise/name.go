package advertise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/internal/within"
)

// byName resolves a name each time that it is asked.
func byName(spec, host string, port uint16, source string, o Options) method {
	return func(ctx context.Context, bound netip.AddrPort) ([]candidate, error) {
		addrs, err := within.Call(ctx, func(ctx context.Context) ([]netip.Addr, error) { return o.Resolver.LookupNetIP(ctx, "ip", host) })
		if err != nil {
			return nil, &noAddress{spec, fmt.Sprintf("the name %s cannot be resolved (%s)", host, lookupProblem(err)), "correct it or write an IP address", err}
		}
		var found []candidate
		var refused []string
		loopback := isLocalhost(host) || bound.Addr().IsLoopback()
		for _, a := range addrs {
			a = a.Unmap()
			if unusable(a) != "" || a.IsLoopback() && !loopback {
				refused = append(refused, a.String())
				continue
			}
			addr := withPort(a, port, bound)
			found = append(found, candidate{
				addr:   addr,
				rank:   nameRank(bound.Addr(), a),
				source: source,
				name:   net.JoinHostPort(host, strconv.Itoa(int(addr.Port()))),
			})
		}
		if len(found) == 0 {
			problem := "has no address"
			if refused != nil {
				slices.Sort(refused)
				problem = "resolves only to " + strings.Join(refused, ", ") + ", which no other host can dial"
			}
			return nil, &noAddress{spec, fmt.Sprintf("the name %s %s", host, problem), "correct it in DNS or /etc/hosts, or write an IP address", nil}
		}
		// Answers come in any order.
		slices.SortFunc(found, func(a, b candidate) int { return a.addr.Addr().Compare(b.addr.Addr()) })
		byRank(found)
		return found, nil
	}
}

// nameRank prefers the family that the bound address serves, and then IPv4. The
// other family is not ruled out: what stands at the name may be a proxy.
func nameRank(bound, a netip.Addr) int {
	rank := familyRank(a)
	if !serves(bound, a) {
		rank += 2
	}
	return rank
}

func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// lookupProblem is the heart of a resolver's error, without the name again.
func lookupProblem(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	return err.Error()
}
