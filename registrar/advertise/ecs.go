package advertise

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The metadata endpoint is a link-local address of the same machine.
const (
	ecsTimeout = 2 * time.Second
	maxECS     = 1 << 20
)

// ecsContainer is what the task metadata endpoint, version 4, says of the container,
// so far as it matters.
type ecsContainer struct {
	Networks []struct {
		NetworkMode   string
		IPv4Addresses []string
		IPv6Addresses []string
	}
	Ports []struct {
		ContainerPort uint16
		Protocol      string
		HostPort      uint16
		HostIP        string `json:"HostIp"`
	}
}

// ecs is the step of a task of Amazon ECS. With the network mode awsvpc the task has an
// address of the VPC; with bridge it has ports of the host, whose address the endpoint
// does not tell.
func ecs(spec string, o Options) method {
	return func(ctx context.Context, bound netip.AddrPort) ([]candidate, error) {
		endpoint, _ := o.LookupEnv("ECS_CONTAINER_METADATA_URI_V4")
		if endpoint == "" {
			return nil, notHere("not in a task of ECS")
		}
		c, err := ecsMetadata(ctx, endpoint)
		if err != nil {
			return nil, &noAddress{spec, fmt.Sprintf("the task metadata of ECS cannot be read: %v", err), "", err}
		}
		return c.candidates(spec, bound, o)
	}
}

func (c ecsContainer) candidates(spec string, bound netip.AddrPort, o Options) ([]candidate, error) {
	for _, n := range c.Networks {
		switch n.NetworkMode {
		case "host":
			return nil, notHere("the task of ECS has the network of its host")
		case "awsvpc":
			var found []candidate
			for _, text := range append(n.IPv4Addresses, n.IPv6Addresses...) {
				if a, err := netip.ParseAddr(text); err == nil && unusable(a) == "" && serves(bound.Addr(), a) {
					found = append(found, candidate{
						addr: netip.AddrPortFrom(a, bound.Port()), rank: hostRank(o.HostIP, a), source: "task of ECS, network mode awsvpc",
					})
				}
			}
			if len(found) == 0 {
				return nil, &noAddress{spec, fmt.Sprintf("the task metadata of ECS has no address that a listener on %v serves", bound), "bind to [::]", nil}
			}
			byRank(found)
			return found, nil
		}
	}
	var bindings []netip.AddrPort
	for _, p := range c.Ports {
		if p.ContainerPort != bound.Port() || p.HostPort == 0 || p.Protocol != "" && p.Protocol != "tcp" {
			continue
		}
		hosts := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} // if none is said
		if p.HostIP != "" {
			a, err := netip.ParseAddr(p.HostIP)
			if a = a.Unmap(); err != nil || a.IsLoopback() || !a.IsUnspecified() && unusable(a) != "" {
				continue
			}
			hosts = []netip.Addr{a}
		}
		for _, a := range hosts {
			bindings = append(bindings, netip.AddrPortFrom(a, p.HostPort))
		}
	}
	source := fmt.Sprintf("task of ECS, port mapping of %d/tcp", bound.Port())
	found := atHost(bindings, o.HostIP, source)
	switch {
	case len(found) > 0:
		return found, nil
	case len(bindings) == 0:
		return nil, &noAddress{spec, fmt.Sprintf("the task of ECS has no port mapping of %d/tcp that others reach", bound.Port()), "add it to portMappings", nil}
	case o.HostIP.IsValid():
		return nil, &noAddress{spec, fmt.Sprintf("port %d of the task of ECS is mapped at %v alone, and detect.host_ip %v is not of that family", bound.Port(), bindings[0], o.HostIP), "set it to an address that is", nil}
	}
	return nil, &noAddress{spec, fmt.Sprintf("port %d of the task of ECS is port %d of its host, whose address is not told", bound.Port(), bindings[0].Port()), "set detect.host_ip to it", nil}
}

// atHost returns the bindings at which a port of the host is reached, best first. Those of all
// addresses are at the address of the host, if it is of their family: what listens on 0.0.0.0
// does not answer at an IPv6 address, nor the reverse. The one at the host's own address
// comes first, then those of its family, then IPv4.
func atHost(bindings []netip.AddrPort, host netip.Addr, source string) []candidate {
	var found []candidate
	for _, p := range bindings {
		if p.Addr().IsUnspecified() {
			if !host.IsValid() || host.Is4() != p.Addr().Is4() {
				continue
			}
			p = netip.AddrPortFrom(host, p.Port())
		}
		found = append(found, candidate{addr: p, rank: hostRank(host, p.Addr()), source: source})
	}
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.rank, b.rank), a.addr.Compare(b.addr)) })
	return found
}

// hostRank is lower the nearer an address is to that of the host, if that is known.
func hostRank(host, a netip.Addr) int {
	rank := familyRank(a)
	if host.IsValid() {
		rank += boolRank(a != host)<<2 | boolRank(a.Is4() != host.Is4())<<1
	}
	return rank
}

// ecsMetadata makes one request.
func ecsMetadata(ctx context.Context, endpoint string) (ecsContainer, error) {
	ctx, cancel := context.WithTimeout(ctx, ecsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return ecsContainer{}, err
	}
	// No proxy stands before a link-local address, and nothing is asked twice.
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return ecsContainer{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return ecsContainer{}, errors.New(response.Status)
	}
	var c ecsContainer
	if err := json.NewDecoder(io.LimitReader(response.Body, maxECS)).Decode(&c); err != nil {
		return ecsContainer{}, fmt.Errorf("not the JSON of a container: %w", err)
	}
	return c, nil
}

func joinPort(host, port string) string { return net.JoinHostPort(strings.Trim(host, "[]"), port) }
