package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Proxy is a port of an agent that is forwarded to the application of the master.
type Proxy struct {
	// Listen is the HOST:PORT to listen on. Port 0 takes a free one. Mandatory.
	Listen string `yaml:"listen" usage:"HOST:PORT to listen on"`
	// To is ProxyToMaster. Mandatory.
	To string `yaml:"to" usage:"what is forwarded to: master"`
	// App is the name of the address in node.app_addrs of the master. Mandatory.
	App string `yaml:"app" usage:"name of the address in node.app_addrs of the master"`
	// MaxConnections bounds the connections of clients. 0: 1024.
	MaxConnections int `yaml:"max_connections" usage:"most connections of clients"`
	// DialTimeout bounds how long a client waits for a master that accepts. 0: 3 s.
	DialTimeout time.Duration `yaml:"dial_timeout" usage:"how long a client waits for a master that accepts"`
}

// ProxyToMaster is the one value of Proxy.To.
const ProxyToMaster = "master"

// The bounds of a Proxy. A connection takes two file descriptors.
const (
	maxProxyConnections = 100_000
	maxProxyDialTimeout = time.Minute
)

// validateProxy checks the ports that follow the master.
func (l *loader) validateProxy() {
	const example = "127.0.0.1:5432"
	c := l.config
	taken := []listening{{"node.bind", c.Node.Bind}, {"http.addr", c.HTTP.Addr}}
	if l.purpose == ForRegistrar {
		taken = nil // which listens on none of them
	}
	for i, p := range c.Proxy {
		at := fmt.Sprintf("proxy[%d]", i)
		if l.problems.at(at) {
			continue
		}
		listen := at + ".listen"
		if p.Listen == "" {
			l.bad(listen, "", "missing", "write HOST:PORT, as "+example)
		}
		l.listenAddr(listen, p.Listen, example)
		for _, other := range taken {
			if sameListener(p.Listen, other.addr) {
				l.bad(listen, p.Listen, "the port of "+other.key+", "+strconv.Quote(other.addr), "write another port")
			}
		}
		taken = append(taken, listening{listen, p.Listen})
		for _, name := range slices.Sorted(maps.Keys(c.Node.AppAddrs)) {
			if leadsTo(c.Node.AppAddrs[name], p.Listen) {
				l.bad(listen, p.Listen, "the address of this node's own application, node.app_addrs."+name, "write another port, which clients dial in place of it")
			}
		}
		if p.To != ProxyToMaster {
			l.bad(at+".to", p.To, "not what can be forwarded to", "write to: master")
		}
		if p.App == "" {
			l.bad(at+".app", "", "missing", "name an address in node.app_addrs of the nodes, as app: pg")
		}
		if p.MaxConnections < 0 || p.MaxConnections > maxProxyConnections {
			l.bad(at+".max_connections", strconv.Itoa(p.MaxConnections), "out of range", fmt.Sprintf("write 1 to %d, or leave it out for 1024", maxProxyConnections))
		}
		if p.DialTimeout < 0 || p.DialTimeout > maxProxyDialTimeout {
			l.bad(at+".dial_timeout", p.DialTimeout.String(), "out of range", fmt.Sprintf("write up to %v, or leave it out for 3s", maxProxyDialTimeout))
		}
	}
}

// listening is an address to listen on, and its key.
type listening struct{ key, addr string }

// sameListener reports whether one of two addresses to listen on is taken by the other.
func sameListener(a, b string) bool {
	aHost, aPort, aErr := net.SplitHostPort(a)
	bHost, bPort, bErr := net.SplitHostPort(b)
	if aErr != nil || bErr != nil || aPort != bPort || aPort == "0" {
		return false
	}
	return unspecified(aHost) || unspecified(bHost) || sameHost(aHost, bHost)
}

// leadsTo reports whether who dials addr reaches what listens on listen. On all addresses of this
// host it listens for those that are surely of this host.
func leadsTo(addr, listen string) bool {
	host, _, err := net.SplitHostPort(addr)
	listenHost, _, _ := net.SplitHostPort(listen)
	if err == nil && unspecified(listenHost) && !loopback(addr) && !ownAddress(host) {
		return false
	}
	return sameListener(addr, listen)
}

func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// sameHost compares without regard to how an address is written. localhost is 127.0.0.1.
func sameHost(a, b string) bool {
	canonical := func(host string) string {
		if strings.EqualFold(host, "localhost") {
			return "127.0.0.1"
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			return ip.Unmap().String()
		}
		return strings.ToLower(host)
	}
	return canonical(a) == canonical(b)
}

// ownAddress reports whether host is an address of an interface of this host.
func ownAddress(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addrs, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		return ok && network.IP.Equal(ip.AsSlice())
	})
}
