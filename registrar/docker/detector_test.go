package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/fakeengine"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// names are those that a test's resolver knows.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := n[host]; ok {
		return slices.Clone(a), nil
	}
	return nil, errors.New("no such host")
}

func mountedAs(id string) fstest.MapFS {
	return fstest.MapFS{"proc/self/mountinfo": {Data: []byte("1 1 8:1 /x/containers/" + id + "/hostname /etc/hostname rw - ext4 x rw\n")}}
}

// publishedAt returns a container on a user network, with port 7946 published at
// places such as "0.0.0.0:32768".
func publishedAt(places ...string) engine.Container {
	c := engine.Container{ID: idA, Name: "/web", State: engine.State{Running: true}}
	c.HostConfig.NetworkMode = "blue"
	c.NetworkSettings.Networks = map[string]engine.Endpoint{"blue": {NetworkID: "n1", IPAddress: "172.18.0.2", IPPrefixLen: 16, Gateway: "172.18.0.1"}}
	c.NetworkSettings.Ports = map[string][]engine.Binding{}
	for _, p := range places {
		host, port, _ := cutLast(p, ":")
		c.NetworkSettings.Ports["7946/tcp"] = append(c.NetworkSettings.Ports["7946/tcp"], engine.Binding{HostIP: host, HostPort: port})
	}
	return c
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func with(c engine.Container, change func(*engine.Container)) engine.Container { change(&c); return c }

var (
	bridgeNet     = map[string]engine.Network{"n1": {Driver: "bridge"}}
	errNotThere   = fmt.Errorf("docker: %w", engine.ErrNoEngine)
	errDenied     = fmt.Errorf("docker: %w: permission denied; run as root", driver.ErrDenied)
	errUnreadable = fmt.Errorf("docker: %w: the answer is not that of an engine", driver.ErrInvalid)
)

func TestDetector(t *testing.T) {
	macvlan := func(c *engine.Container) {
		c.NetworkSettings.Networks["lan"] = engine.Endpoint{NetworkID: "n2", IPAddress: "192.168.7.20", IPPrefixLen: 24, Gateway: "192.168.7.1"}
	}
	networks := func(driver string) map[string]engine.Network {
		return map[string]engine.Network{"n1": {Driver: "bridge"}, "n2": {Driver: driver}}
	}
	for _, tc := range []struct {
		name   string
		c      engine.Container
		engine knownContainers
		hostIP string
		root   fstest.MapFS
		env    map[string]string
		bound  string
		want   string
		source string // part of it
		err    error
		text   string
	}{
		// Which place.
		{name: "a specific address beats all", c: publishedAt("0.0.0.0:1", "10.0.0.9:2", "10.0.0.5:3", "2001:db8::1:4"), hostIP: "10.9.9.9", want: "10.0.0.5:3", source: "publishes port 7946 of this container at 10.0.0.5:3"},
		{name: "IPv6 alone", c: publishedAt("2001:db8::1:4"), want: "[2001:db8::1]:4"},
		{name: "several ports, the lowest", c: publishedAt("0.0.0.0:9", "0.0.0.0:8", ":::7"), hostIP: "10.0.0.5", want: "10.0.0.5:8"},
		{name: "all addresses in IPv6", c: publishedAt("0.0.0.0:9", ":::7"), hostIP: "2001:db8::5", want: "[2001:db8::5]:7", source: "at [::]:7; the address is detect.host_ip"},
		{name: "Podman says nothing for all", c: publishedAt(":32768"), hostIP: "2001:db8::5", want: "[2001:db8::5]:32768"},
		{name: "host_ip of a family that is not published", c: publishedAt(":::7"), hostIP: "10.0.0.5", err: driver.ErrNotFound, text: `detect.host_ip: "10.0.0.5": port 7946 of this container is published at [::]:7 alone; name an address of that family, or run it with -p 0.0.0.0:7946:7946`},
		{name: "host_ip that is none", c: publishedAt("0.0.0.0:7"), hostIP: "0.0.0.0", err: driver.ErrNotFound, text: `detect.host_ip: "0.0.0.0": other hosts cannot dial it`},
		{name: "one that is wrong spoils no other", c: publishedAt("nowhere:1", "10.0.0.5:http", "0.0.0.0:99999", "fe80::1:5", "0.0.0.0:7"), hostIP: "10.0.0.5", want: "10.0.0.5:7"},
		{name: "all are wrong", c: publishedAt("nowhere:1", "10.0.0.5:http"), err: driver.ErrNotFound, text: `HostIp: "nowhere": no address; want an IP such as 192.168.1.102; HostPort: "http": no port`},
		{name: "not yet", c: publishedAt("0.0.0.0:0"), err: driver.ErrNotFound, text: "wait for the engine"},
		{name: "loopback alone", c: publishedAt("127.0.0.1:32768", "::1:32768"), err: driver.ErrNotFound, text: "published at 127.0.0.1:32768 alone, which only the host itself reaches; run it with -p 7946:7946, or set node.advertise"},
		{name: "loopback and another", c: publishedAt("127.0.0.1:1", "10.0.0.5:2"), want: "10.0.0.5:2"},
		{name: "not published", c: publishedAt(), err: driver.ErrNotFound, text: "port 7946 of this container is not published; run it with -p 7946:7946, or set node.advertise, or detect.require_external: false"},
		{name: "exposed and not published", c: with(publishedAt(), func(c *engine.Container) { c.NetworkSettings.Ports["7946/tcp"] = nil }), err: driver.ErrNotFound, text: "is not published"},
		{name: "UDP alone", c: with(publishedAt(), func(c *engine.Container) {
			c.NetworkSettings.Ports["7946/udp"] = []engine.Binding{{HostIP: "0.0.0.0", HostPort: "7946"}}
		}), err: driver.ErrNotFound, text: "is published for UDP alone; run it with -p 7946:7946, which is TCP"},
		{name: "another port", c: with(publishedAt(), func(c *engine.Container) {
			c.NetworkSettings.Ports["80/tcp"] = []engine.Binding{{HostIP: "10.0.0.5", HostPort: "80"}}
		}), err: driver.ErrNotFound, text: "is not published"},

		// Which address of the host.
		{name: "that of an engine over TCP", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://10.0.0.5:2376"}, want: "10.0.0.5:7", source: "that of the engine, 10.0.0.5:2376"},
		{name: "by its name", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://engine:2376"}, want: "10.0.0.7:7"},
		{name: "in the family that is published", c: publishedAt(":::7"), engine: knownContainers{host: "tcp://engine:2376"}, want: "[2001:db8::7]:7"},
		{name: "a name that nobody knows", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://other:2376"}, want: "172.18.0.1:7"},
		{name: "through a tunnel", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://127.0.0.1:2375"}, want: "172.18.0.1:7"},
		{name: "a proxy beside this container", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://socket-proxy:2375"}, want: "172.18.0.1:7"},
		{name: "the host's name for its containers", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://host.docker.internal:2375"}, want: "172.18.0.1:7"},
		{name: "the host in the default network", c: publishedAt("0.0.0.0:7"), engine: knownContainers{host: "tcp://172.17.0.1:2375", networks: map[string]engine.Network{"n1": {Driver: "bridge"}, "bridge": defaultBridge()}}, want: "172.18.0.1:7"},
		{name: "in a Swarm", c: publishedAt("0.0.0.0:7"), engine: knownContainers{info: engine.Info{SwarmAddress: "10.0.0.6"}}, want: "10.0.0.6:7", source: "Swarm"},
		{name: "on this host alone", c: publishedAt("0.0.0.0:7"), want: "172.18.0.1:7", source: "which only this host and its containers reach: set detect.host_ip"},
		{name: "a proxy that forbids all but containers", c: publishedAt("0.0.0.0:7"), engine: knownContainers{networks: map[string]engine.Network{}, infoErr: errDenied}, want: "172.18.0.1:7"},
		{name: "rootless", c: publishedAt("0.0.0.0:7"), engine: knownContainers{info: engine.Info{Rootless: true}}, err: driver.ErrNotFound, text: "runs as a user and does not know the address of its host; set detect.host_ip"},
		{name: "rootless, host_ip", c: publishedAt("0.0.0.0:7"), engine: knownContainers{info: engine.Info{Rootless: true}}, hostIP: "10.0.0.5", want: "10.0.0.5:7"},
		{name: "pasta", c: with(publishedAt("0.0.0.0:7"), func(c *engine.Container) { c.NetworkSettings.Networks = nil; c.HostConfig.NetworkMode = "pasta" }), err: driver.ErrNotFound, text: "the address of the host is not known; set detect.host_ip"},
		{name: "the gateway has the other family", c: publishedAt(":::7"), err: driver.ErrNotFound, text: "set detect.host_ip"},
		{name: "two networks", c: with(publishedAt("0.0.0.0:7"), func(c *engine.Container) {
			c.NetworkSettings.Networks["amber"] = engine.Endpoint{NetworkID: "n1", IPAddress: "172.19.0.2", Gateway: "172.19.0.1"}
		}), want: "172.18.0.1:7"},

		// Which network.
		{name: "macvlan", c: with(publishedAt(), macvlan), engine: knownContainers{networks: networks("macvlan")}, want: "192.168.7.20:7946", source: "network lan (macvlan)"},
		{name: "ipvlan and published on all", c: with(publishedAt("0.0.0.0:7"), macvlan), engine: knownContainers{networks: networks("ipvlan")}, want: "192.168.7.20:7946"},
		{name: "macvlan and host_ip", c: with(publishedAt("0.0.0.0:7"), macvlan), engine: knownContainers{networks: networks("macvlan")}, hostIP: "10.0.0.5", want: "10.0.0.5:7"},
		{name: "macvlan and a specific address", c: with(publishedAt("10.0.0.5:7"), macvlan), engine: knownContainers{networks: networks("macvlan")}, want: "10.0.0.5:7"},
		{name: "macvlan and loopback", c: with(publishedAt("127.0.0.1:7"), macvlan), engine: knownContainers{networks: networks("macvlan")}, want: "192.168.7.20:7946"},
		{name: "overlay", c: with(publishedAt(), macvlan), engine: knownContainers{networks: networks("overlay")}, want: "192.168.7.20:7946", source: "on all hosts of the Swarm"},
		{name: "the routing mesh", c: with(publishedAt(), func(c *engine.Container) {
			c.NetworkSettings.Networks["ingress"] = engine.Endpoint{NetworkID: "n2", IPAddress: "10.0.0.3"}
		}), engine: knownContainers{networks: networks("overlay")}, err: driver.ErrNotFound, text: "is not published"},
		{name: "whose kind the engine does not say", c: with(publishedAt(), func(c *engine.Container) {
			*c = engine.Container{
				ID: idA, Name: "/hole", State: engine.State{Status: "running", Running: true},
				Config:          engine.ContainerConfig{ExposedPorts: map[string]struct{}{"7946/tcp": {}}},
				HostConfig:      engine.HostConfig{NetworkMode: "lan"},
				NetworkSettings: engine.NetworkSettings{Networks: map[string]engine.Endpoint{"lan": {IPAddress: "192.168.7.20"}}},
			}
		}), engine: knownContainers{networks: map[string]engine.Network{}}, want: "192.168.7.20:7946", source: "network lan (macvlan)"},
		{name: "a bridge that is routed", c: with(publishedAt("0.0.0.0:"), func(c *engine.Container) {}), want: "172.18.0.2:7946", source: "routed"},
		{name: "a bridge that is routed for the other family", c: with(publishedAt(":::", "0.0.0.0:7"), func(c *engine.Container) {}), hostIP: "10.0.0.5", want: "10.0.0.5:7"},
		{name: "several addresses, one of which is host_ip", c: publishedAt("10.0.0.1:1", "10.0.0.5:2", "2001:db8::1:3"), hostIP: "10.0.0.5", want: "10.0.0.5:2"},
		{name: "several addresses, one of the family of host_ip", c: publishedAt("10.0.0.1:1", "10.0.0.5:2", "2001:db8::1:3"), hostIP: "2001:db8::9", want: "[2001:db8::1]:3"},
		{name: "several addresses", c: publishedAt("10.0.0.5:2", "10.0.0.1:1", "2001:db8::1:3"), want: "10.0.0.1:1"},
		{name: "a task of a Swarm", c: with(publishedAt(), func(c *engine.Container) {
			c.Config.Labels = map[string]string{"com.docker.swarm.task.id": "x"}
		}), err: driver.ErrNotFound, text: "is not published; publish it at each host (docker service update --publish-add mode=host,target=7946), or put the service in an overlay network, or set node.advertise"},
		{name: "host", c: with(publishedAt(), func(c *engine.Container) { c.HostConfig.NetworkMode = "host" }), err: advertise.ErrHostNetwork, text: "has the network of the host"},
		{name: "none", c: with(publishedAt(), func(c *engine.Container) { c.HostConfig.NetworkMode = "none" }), err: driver.ErrNotFound, text: "run it without --network none"},
		{name: "that of another", c: with(publishedAt(), func(c *engine.Container) { c.HostConfig.NetworkMode = "container:" + idB }), engine: knownContainers{all: []engine.Container{
			with(publishedAt("10.0.0.5:7"), func(c *engine.Container) { c.ID, c.Name = idB, "/infra" }),
		}}, want: "10.0.0.5:7", source: "container infra, whose network this one shares,"},
		{name: "that of another, which does not publish it", c: with(publishedAt(), func(c *engine.Container) { c.HostConfig.NetworkMode = "container:" + idB }), engine: knownContainers{all: []engine.Container{
			with(publishedAt(), func(c *engine.Container) { c.ID, c.Name = idB, "/infra" }),
		}}, err: driver.ErrNotFound, text: "port 7946 of container infra, whose network this one shares, is not published; run container infra with -p 7946:7946, or set"},
		{name: "that of another, which is gone", c: with(publishedAt(), func(c *engine.Container) { c.HostConfig.NetworkMode = "container:" + idB }), err: driver.ErrNotFound, text: "no such container"},
		{name: "that of itself", c: with(publishedAt(), func(c *engine.Container) { c.HostConfig.NetworkMode = "container:" + idA }), err: driver.ErrNotFound, text: "in a row"},

		// Whether there is anything to say.
		{name: "not in a container", root: fstest.MapFS{}, err: advertise.ErrNotApplicable, text: "no container"},
		{name: "no engine", engine: knownContainers{err: errNotThere}, err: advertise.ErrNotApplicable, text: "no container engine"},
		{name: "no permission", engine: knownContainers{err: errDenied}, err: driver.ErrDenied, text: "permission denied; run as root"},
		{name: "no sense", engine: knownContainers{err: errUnreadable}, err: driver.ErrUnavailable, text: "not that of an engine"},
		{name: "a pod", env: map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, engine: knownContainers{err: errDenied}, err: advertise.ErrNotApplicable, text: "Kubernetes"},
		{name: "a pod that the engine knows", c: with(publishedAt(), func(c *engine.Container) {
			c.Config.Labels = map[string]string{"io.kubernetes.pod.name": "x"}
		}), err: advertise.ErrNotApplicable, text: "Kubernetes"},
		{name: "bound to loopback", c: publishedAt("10.0.0.5:7"), bound: "127.0.0.1:7946", err: driver.ErrNotFound, text: "set node.bind to 0.0.0.0:7946"},
		{name: "bound to no port", c: publishedAt("10.0.0.5:7"), bound: "0.0.0.0:0", err: driver.ErrNotFound, text: "listen before"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.root == nil {
				tc.root = mountedAs(idA)
			}
			if tc.bound == "" {
				tc.bound = "[::]:7946"
			}
			if tc.engine.networks == nil {
				tc.engine.networks = bridgeNet
			}
			if tc.c.ID != "" {
				tc.engine.all = append(tc.engine.all, tc.c)
			}
			p := fakeEnvironment(tc.root, "h", tc.env)
			o := DetectorOptions{Engine: tc.engine, environment: &p, Resolver: names{
				"engine":               {netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("10.0.0.7")},
				"socket-proxy":         {netip.MustParseAddr("172.18.0.3")},
				"host.docker.internal": {netip.MustParseAddr("172.17.0.1")},
			}}
			if tc.hostIP != "" {
				o.HostIP = netip.MustParseAddr(tc.hostIP)
			}
			a, err := NewDetector(o).Detect(t.Context(), netip.MustParseAddrPort(tc.bound))
			if tc.err != nil {
				if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.text) || errors.Is(err, driver.ErrInvalid) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v, want %v with %q", err, tc.err, tc.text)
				}
				if applies := !errors.Is(err, advertise.ErrNotApplicable); applies == (errors.Is(tc.err, advertise.ErrNotApplicable)) {
					t.Errorf("error %v, applies: %v", err, applies)
				}
				return
			}
			if err != nil || a.Addr != tc.want || tc.source != "" && !strings.Contains(a.Source, tc.source) {
				t.Errorf("found %+v, %v, want %s", a, err, tc.want)
			}
		})
	}
}

func defaultBridge() engine.Network {
	n := engine.Network{Driver: "bridge"}
	n.IPAM.Config = []struct{ Subnet string }{{"172.17.0.0/16"}}
	return n
}

// An inspection as API v1.52 has it, without the address beside Networks.
func TestDetectorOfANewEngine(t *testing.T) {
	const inspect = `{"Id": "` + idA + `", "Name": "/web", "Config": {"Hostname": "web"}, "State": {"Running": true}, "HostConfig": {"NetworkMode": "bridge"},
		"NetworkSettings": {"SandboxID": "s", "Ports": {"7946/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32768"}]},
		"Networks": {"bridge": {"NetworkID": "n1", "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "Gateway": "172.17.0.1", "GwPriority": 0, "DNSNames": null}}}}`
	cl := newTestClient(t, engine.Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{
		"/_ping":                             fakeengine.Ping("1.52"),
		"/v1.52/containers/" + idA + "/json": fakeengine.Answer(200, inspect),
		"/v1.52/networks/n1":                 fakeengine.Answer(200, `{"Id": "n1", "Name": "bridge", "Driver": "bridge"}`),
		"/v1.52/info":                        fakeengine.Answer(200, `{"Swarm": {"NodeAddr": ""}, "SecurityOptions": ["name=seccomp,profile=builtin"]}`),
	}))})
	p := fakeEnvironment(mountedAs(idA), "web", nil)
	a, err := NewDetector(DetectorOptions{Engine: cl, environment: &p}).Detect(t.Context(), netip.MustParseAddrPort("[::]:7946"))
	if err != nil || a.Addr != "172.17.0.1:32768" {
		t.Errorf("found %+v, %v", a, err)
	}
}

// What Podman says by the API of Docker.
func TestDetectorOfPodman(t *testing.T) {
	const inspect = `{"Id": "` + idA + `", "Name": "/web", "Config": {"Hostname": "web", "Labels": null}, "State": {"Running": true}, "HostConfig": {"NetworkMode": "slirp4netns"},
		"NetworkSettings": {"Ports": {"7946/tcp": [{"HostIp": "", "HostPort": "40001"}]}, "Networks": {}}}`
	cl := newTestClient(t, engine.Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{
		"/v1.41/containers/" + idA + "/json": fakeengine.Answer(200, inspect),
		"/v1.41/info":                        fakeengine.Answer(200, `{"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"], "Swarm": {"NodeAddr": ""}}`),
	}))})
	p := fakeEnvironment(fstest.MapFS{"proc/self/mountinfo": {Data: []byte("700 690 0:50 /containers/overlay-containers/" + idA + "/userdata/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw,uid=1000\n")}}, "web", nil)
	bound := netip.MustParseAddrPort("[::]:7946")
	if _, err := NewDetector(DetectorOptions{Engine: cl, environment: &p}).Detect(t.Context(), bound); !errors.Is(err, driver.ErrNotFound) || !strings.Contains(err.Error(), "set detect.host_ip") {
		t.Errorf("error %v, want the hint", err)
	}
	a, err := NewDetector(DetectorOptions{Engine: cl, environment: &p, HostIP: netip.MustParseAddr("10.0.0.5")}).Detect(t.Context(), bound)
	if err != nil || a.Addr != "10.0.0.5:40001" {
		t.Errorf("found %+v, %v", a, err)
	}
}

func TestDetectorOfAnEngineThatHangs(t *testing.T) {
	cl := newTestClient(t, engine.Config{Timeout: 300 * time.Millisecond, Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{"/": fakeengine.Hang}))})
	p := fakeEnvironment(mountedAs(idA), "web", nil)
	_, err := NewDetector(DetectorOptions{Engine: cl, environment: &p}).Detect(t.Context(), netip.MustParseAddrPort("[::]:7946"))
	if !errors.Is(err, driver.ErrUnavailable) || errors.Is(err, advertise.ErrNotApplicable) || !strings.Contains(err.Error(), "no answer within 300ms") {
		t.Errorf("error %v, want that the engine hangs", err)
	}
}

// The chain says what the detector has said, and takes what it has found.
func TestDetectorInTheChain(t *testing.T) {
	p := fakeEnvironment(mountedAs(idA), "web", nil)
	d := NewDetector(DetectorOptions{Engine: knownContainers{all: []engine.Container{publishedAt("10.0.0.5:7")}}, environment: &p})
	for _, spec := range []string{"docker", "auto"} {
		a, err := advertise.Resolve(t.Context(), spec, netip.MustParseAddrPort("[::]:7946"), advertise.Options{Detectors: []advertise.Detector{d}})
		if err != nil || a.Addr != "10.0.0.5:7" {
			t.Errorf("%s: %+v, %v", spec, a, err)
		}
	}
}

// newTestClient returns a client that the test closes.
func newTestClient(t testing.TB, c engine.Config) *engine.Client {
	t.Helper()
	cl, err := engine.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}
