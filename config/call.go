package config

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Call is a service of gRPC of a program beside the agent: calls of members to it come in at the
// one port, and are passed on.
type Call struct {
	// Service is its name, as that in its .proto with the package: orders.v1.Orders. Mandatory.
	Service string `yaml:"service" usage:"name of a service of gRPC"`
	// To is where the program listens on this host: HOST:PORT of loopback, or unix:PATH. Mandatory.
	To string `yaml:"to" usage:"where the program listens, on this host"`
	// Where is OnMaster or OnAll. Empty: OnAll.
	Where string `yaml:"where" usage:"who serves it: master or all"`
}

// maxCalls bounds them: each is a tag of the node, which others are told.
const maxCalls = 100

var serviceName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*([.-][A-Za-z0-9_]+)*$`)

const maxServiceName = 200

// validateCalls checks the services of programs beside the agent.
func (l *loader) validateCalls() {
	seen := make(map[string]int)
	if n := len(l.config.Calls); n > maxCalls {
		l.bad("calls", strconv.Itoa(n), "too many", fmt.Sprintf("write %d at most", maxCalls))
		return
	}
	for i, c := range l.config.Calls {
		at := fmt.Sprintf("calls[%d]", i)
		if l.problems.at(at) {
			continue
		}
		first, twice := seen[c.Service]
		switch service := at + ".service"; {
		case c.Service == "":
			l.bad(service, "", "missing", "write the name of a service with its package, as service: orders.v1.Orders")
		case len(c.Service) > maxServiceName || !serviceName.MatchString(c.Service):
			l.bad(service, c.Service, "not the name of a service", "write it with its package and without a method, as orders.v1.Orders")
		case strings.HasPrefix(c.Service, "grpc.") || strings.HasPrefix(c.Service, "muster."):
			l.bad(service, c.Service, "a name that only gRPC and Muster themselves use", "name a service of the application")
		case twice:
			l.bad(service, c.Service, fmt.Sprintf("the service of calls[%d]", first), "write it once")
		default:
			seen[c.Service] = i
		}
		l.validateCallTo(at+".to", c.To)
		if c.Where != "" {
			l.oneOf(at+".where", c.Where, OnMaster, OnAll)
		}
	}
}

// validateCallTo checks the address of a program. What goes there is not encrypted.
func (l *loader) validateCallTo(key, to string) {
	const example = "127.0.0.1:9000"
	path, isSocket := strings.CutPrefix(to, UnixSocket)
	switch {
	case to == "":
		l.bad(key, "", "missing", "write where the program listens, as "+example+", or unix:/run/orders.sock")
	case isSocket && !filepath.IsAbs(path):
		l.bad(key, to, "not an absolute path", "write one, as unix:/run/orders.sock")
	case isSocket:
	default:
		if problem, hint := listenProblem(to, example); problem != "" {
			l.bad(key, to, problem, hint)
			return
		}
		if _, port, _ := net.SplitHostPort(to); port == "0" {
			l.bad(key, to, "nobody can dial port 0", "write a port from 1 to 65535")
		}
		if !loopback(to) {
			l.bad(key, to, "not of this host, and the calls would travel in the clear", "write an address of loopback, as "+example+", or a socket, as unix:/run/orders.sock")
		}
		if l.purpose == ForRegistrar {
			return // which listens on none of these
		}
		for _, other := range []listening{{"node.bind", l.config.Node.Bind}, {"http.addr", l.config.HTTP.Addr}} {
			if sameListener(to, other.addr) {
				l.bad(key, to, "the port of "+other.key+", "+strconv.Quote(other.addr), "write that of the program")
			}
		}
	}
}

// UnixSocket begins the address of a program that listens on a socket of the file system.
const UnixSocket = "unix:"
