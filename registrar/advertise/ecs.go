package advertise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
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
			return nil, &noAddress{spec, fmt.Sprintf("the task metadata of ECS cannot be read: %v", err), err}
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
						addr: netip.AddrPortFrom(a, bound.Port()), rank: familyRank(a), source: "task of ECS, network mode awsvpc",
					})
				}
			}
			if len(found) == 0 {
				return nil, &noAddress{spec, fmt.Sprintf("the task metadata of ECS has no address that a listener on %v serves; bind to [::]", bound), nil}
			}
			byRank(found)
			return found, nil
		}
	}
	for _, p := range c.Ports {
		if p.ContainerPort != bound.Port() || p.HostPort == 0 || p.Protocol != "" && p.Protocol != "tcp" {
			continue
		}
		host := o.HostIP
		if a, err := netip.ParseAddr(p.HostIP); err == nil && unusable(a) == "" && !a.IsLoopback() {
			host = a
		}
		if !host.IsValid() {
			return nil, &noAddress{spec, fmt.Sprintf("port %d of the task of ECS is port %d of its host, whose address is not told; set detect.host_ip to it",
				bound.Port(), p.HostPort), nil}
		}
		return []candidate{{addr: netip.AddrPortFrom(host, p.HostPort), source: fmt.Sprintf("task of ECS, port mapping of %d/tcp", bound.Port())}}, nil
	}
	return nil, &noAddress{spec, fmt.Sprintf("the task of ECS has no port mapping of %d/tcp; add it to portMappings", bound.Port()), nil}
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
