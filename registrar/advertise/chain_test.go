package advertise

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
)

// eth0 is what a container has of its network.
var eth0 = []Interface{lo, up(2, "eth0", "172.17.0.2")}

var (
	noContainer = fakeDetector{name: "docker", err: fmt.Errorf("%w: not in a container", ErrNotApplicable)}
	unpublished = fakeDetector{name: "docker", err: errors.New("port 7946/tcp is not published")}
)

func TestExplain(t *testing.T) {
	tests := []struct {
		name   string
		host   host
		spec   string
		bound  string
		hostIP string
		allow  bool
		want   string   // the address
		steps  []string // name, outcome and address
		err    []string
	}{
		{name: "an ordinary host", spec: "auto", host: host{interfaces: server, detectors: []Detector{noContainer}}, want: "192.0.2.7:7946",
			steps: []string{"config not_applicable", "env not_applicable", "bind not_applicable", "docker not_applicable",
				"kubernetes not_applicable", "ecs not_applicable", "nomad not_applicable", "interface found 192.0.2.7:7946"}},
		{name: "the first that knows ends the chain", spec: "auto", host: host{interfaces: eth0, container: true, detectors: []Detector{
			unpublished, fakeDetector{name: "registry", found: Address{Addr: "192.0.2.1:32768"}}}}, want: "192.0.2.1:32768",
			steps: []string{"config not_applicable", "env not_applicable", "bind not_applicable", "docker failed", "registry found 192.0.2.1:32768"}},
		{name: "the environment comes first", spec: "auto", bound: "127.0.0.1:7946",
			host: host{env: map[string]string{EnvAddr: "10.0.0.5:7000"}, detectors: []Detector{unpublished}}, want: "10.0.0.5:7000",
			steps: []string{"config not_applicable", "env found 10.0.0.5:7000"}},
		{name: "what the environment says is not made up for", spec: "auto", host: host{interfaces: server, env: map[string]string{EnvAddr: "nowhere.example"}},
			steps: []string{"config not_applicable", "env failed"}, err: []string{"nowhere.example", "no such host"}},
		{name: "what the environment says is checked", spec: "auto", host: host{interfaces: server, env: map[string]string{EnvAddr: "0.0.0.0"}},
			err: []string{EnvAddr, "nobody can dial 0.0.0.0"}},
		{name: "loopback", spec: "auto", bound: "127.0.0.1:7946", host: host{container: true}, want: "127.0.0.1:7946",
			steps: []string{"config not_applicable", "env not_applicable", "bind found 127.0.0.1:7946"}},
		{name: "a failed step stops nothing where the network is the host's", spec: "auto", host: host{interfaces: server, detectors: []Detector{unpublished}},
			want: "192.0.2.7:7946"},
		{name: "a container without mapping fails closed", spec: "auto", host: host{interfaces: eth0, container: true, detectors: []Detector{
			unpublished, fakeDetector{name: "registry", err: errors.New("provider consul: connection refused")}}},
			steps: []string{"config not_applicable", "env not_applicable", "bind not_applicable", "docker failed", "registry failed",
				"kubernetes not_applicable", "ecs not_applicable", "nomad not_applicable", "interface failed"},
			err: []string{"172.17.0.2", "docker: port 7946/tcp is not published", "registry: provider consul: connection refused", "publish the port", EnvAddr, "require_external: false"}},
		{name: "and where nothing has failed", spec: "auto", host: host{interfaces: eth0, container: true},
			err: []string{"172.17.0.2", "a container (eth0)", "publish the port"}},
		{name: "and where there is nobody to ask", spec: "auto", host: host{interfaces: eth0, container: true, detectors: []Detector{noContainer}},
			err: []string{`"auto": interface: 172.17.0.2`, "; publish the port", "\ndocker: not in a container"}},
		{name: "and bound to its address", spec: "auto", bound: "172.17.0.2:7946", host: host{interfaces: eth0, container: true},
			err: []string{"172.17.0.2", "a container (eth0)"}},
		{name: "unless that is allowed", spec: "auto", allow: true, host: host{interfaces: eth0, container: true, detectors: []Detector{unpublished}}, want: "172.17.0.2:7946"},
		{name: "who names an interface means it", spec: "interface:eth0", host: host{interfaces: eth0, container: true}, want: "172.17.0.2:7946",
			steps: []string{"interface found 172.17.0.2:7946"}},
		{name: "a detector alone", spec: "docker", host: host{interfaces: server, detectors: []Detector{unpublished}},
			steps: []string{"docker failed"}, err: []string{`node.advertise: "docker": detector docker: port 7946/tcp is not published`}},
		{name: "no interface, and why nothing else", spec: "auto", host: host{interfaces: []Interface{lo}, detectors: []Detector{unpublished}},
			err: []string{"no interface", "docker: port 7946/tcp is not published"}},
		{name: "a detector that finds nonsense", spec: "auto", host: host{interfaces: eth0, container: true,
			detectors: []Detector{fakeDetector{name: "docker", found: Address{Addr: "0.0.0.0:1"}}}},
			err: []string{`docker: "0.0.0.0:1" was found`}},

		{name: "pod", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{"POD_IP": "10.244.0.7"}}, want: "10.244.0.7:7946"},
		{name: "pod, by our own variable", spec: "auto", host: host{env: map[string]string{"POD_IP": "10.0.0.1", "MUSTER_POD_IP": "fd00::7"}}, want: "[fd00::7]:7946"},
		{name: "pod without downward API", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1"}},
			want: "172.17.0.2:7946"},
		{name: "pod with nonsense", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{"POD_IP": "$(POD_IP)"}},
			err: []string{`kubernetes: POD_IP="$(POD_IP)"`, "status.podIP"}},

		{name: "Nomad", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_gossip": "192.0.2.1:25000", "NOMAD_ADDR_gossip": "172.17.0.2:7946", "NOMAD_PORT_gossip": "7946",
			"NOMAD_HOST_ADDR_http": "192.0.2.1:25001", "NOMAD_PORT_http": "8080"}}, want: "192.0.2.1:25000"},
		{name: "Nomad with ports in the task's network", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_ADDR_gossip": "192.0.2.1:25000", "NOMAD_PORT_gossip": "25000", "NOMAD_ALLOC_PORT_gossip": "7946"}}, want: "192.0.2.1:25000"},
		{name: "Nomad of old", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_IP_gossip": "192.0.2.1", "NOMAD_PORT_gossip": "7946"}}, want: "192.0.2.1:7946"},
		{name: "Nomad has another port", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_http": "192.0.2.1:25001", "NOMAD_PORT_http": "8080"}},
			err: []string{"nomad: no port of Nomad leads to port 7946: there are http (8080)", "bind to one of them"}},
		{name: "Nomad has two for one", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "192.0.2.1:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "192.0.2.1:25002", "NOMAD_PORT_b": "7946"}},
			err: []string{"several ports of Nomad", "a (7946), b (7946)"}},
		{name: "Nomad has two for one, of which one is at the host's address", spec: "auto", hostIP: "192.0.2.9", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "192.0.2.1:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "192.0.2.9:25002", "NOMAD_PORT_b": "7946"}}, want: "192.0.2.9:25002"},
		{name: "Nomad has one of either family", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "[2001:db8::9]:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "192.0.2.9:25002", "NOMAD_PORT_b": "7946"}}, want: "192.0.2.9:25002"},
		{name: "Nomad has one of either family, and the host is IPv6", spec: "auto", hostIP: "2001:db8::1", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "[2001:db8::9]:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "192.0.2.9:25002", "NOMAD_PORT_b": "7946"}}, want: "[2001:db8::9]:25001"},
		{name: "Nomad has all addresses of either family", spec: "auto", hostIP: "2001:db8::1", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "[::]:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "0.0.0.0:25002", "NOMAD_PORT_b": "7946"}}, want: "[2001:db8::1]:25001"},
		{name: "Nomad has all addresses, and the host is IPv4", spec: "auto", hostIP: "192.0.2.9", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "[::]:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "0.0.0.0:25002", "NOMAD_PORT_b": "7946"}}, want: "192.0.2.9:25002"},
		{name: "Nomad has all addresses of IPv6 alone, and the host is IPv4", spec: "auto", hostIP: "192.0.2.9", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "[::]:25001", "NOMAD_PORT_a": "7946"}}, err: []string{`NOMAD_HOST_ADDR_a="[::]:25001" is no address that others can dial; set detect.host_ip to one of the host of that family`}},
		{name: "Nomad has one that is wrong beside another", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "0.0.0.0:25001", "NOMAD_PORT_a": "7946", "NOMAD_HOST_ADDR_b": "192.0.2.1:25002", "NOMAD_PORT_b": "7946"}}, want: "192.0.2.1:25002"},
		{name: "a port without its host", spec: "auto", host: host{interfaces: server, env: map[string]string{EnvPort: "7000"}},
			err: []string{`MUSTER_ADVERTISE_PORT="7000" says a port, and MUSTER_ADVERTISE_ADDR no host for it; set MUSTER_ADVERTISE_ADDR to HOST:PORT, or take MUSTER_ADVERTISE_PORT out`}},
		{name: "a port without its host, which is asked for", spec: "env", host: host{interfaces: server, env: map[string]string{EnvPort: "7000", EnvAddr: "  "}}, err: []string{"says a port"}},
		{name: "a port that is empty", spec: "auto", host: host{interfaces: server, env: map[string]string{EnvPort: " "}}, want: "192.0.2.7:7946"},
		{name: "Nomad has no address", spec: "auto", host: host{interfaces: eth0, container: true, env: map[string]string{
			"NOMAD_HOST_ADDR_a": "0.0.0.0:25001", "NOMAD_PORT_a": "7946"}}, err: []string{"NOMAD_HOST_ADDR_a", "0.0.0.0:25001"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.host.options()
			o.AllowInternal = tt.allow
			if tt.hostIP != "" {
				o.HostIP = netip.MustParseAddr(tt.hostIP)
			}
			var reported []Explanation
			o.Explained = func(e Explanation) { reported = append(reported, e) }
			bound := tt.bound
			if bound == "" {
				bound = "0.0.0.0:7946"
			}
			e := Explain(t.Context(), tt.spec, netip.MustParseAddrPort(bound), o)
			if e.Addr != tt.want || (e.Err == nil) != (tt.want != "") {
				t.Fatalf("found %q, %v, want %q", e.Addr, e.Err, tt.want)
			}
			for _, part := range tt.err {
				if !strings.Contains(e.Err.Error(), part) {
					t.Errorf("the error does not say %q:\n%v", part, e.Err)
				}
			}
			var steps []string
			for _, s := range e.Steps {
				steps = append(steps, strings.TrimSpace(s.Name+" "+string(s.Outcome)+" "+s.Addr))
				if s.Reason == "" || strings.Contains(s.Reason, "\n") || strings.Contains(s.Reason, ErrNotApplicable.Error()) {
					t.Errorf("step %s says %q", s.Name, s.Reason)
				}
			}
			if tt.steps != nil && !slices.Equal(steps, tt.steps) {
				t.Errorf("steps %q\nwant  %q", steps, tt.steps)
			}
			if len(reported) != 1 || !cmp.Equal(reported[0].Steps, e.Steps) {
				t.Errorf("handed %+v to Explained", reported)
			}
		})
	}
}

// The error of a chain has a line for each step that has something to say, and the cause
// first: what should have known the address and did not.
func TestErrorsHaveTheCauseFirst(t *testing.T) {
	const inside = "interface: 172.17.0.2:7946 is an address within a container (eth0), and nothing says at which address of its host others reach it; "
	const hint = "publish the port, write HOST:PORT or set MUSTER_ADVERTISE_ADDR, or set detect.require_external: false where all others are in that network"
	torn := fakeDetector{name: "registry", err: fmt.Errorf("provider consul:\n  connection refused")}
	absent := fakeDetector{name: "registry", err: fmt.Errorf("%w: detect.registry.tag is not set", ErrNotApplicable)}
	for _, tt := range []struct {
		name string
		host host
		hint string
		want []string
	}{
		{"two have failed", host{interfaces: eth0, container: true, detectors: []Detector{unpublished, torn}}, "",
			[]string{"docker: port 7946/tcp is not published", "registry: provider consul: connection refused", inside + hint}},
		{"one has failed and one does not apply", host{interfaces: eth0, container: true, detectors: []Detector{unpublished, absent}}, "",
			[]string{"docker: port 7946/tcp is not published", inside + hint, "registry: detect.registry.tag is not set"}},
		{"none has failed", host{interfaces: eth0, container: true, detectors: []Detector{noContainer, absent}}, "",
			[]string{inside + hint, "docker: not in a container", "registry: detect.registry.tag is not set"}},
		{"none is there, and the program says what to do", host{interfaces: eth0, container: true}, "give it a detector", []string{inside + "give it a detector"}},
		{"no interface", host{interfaces: []Interface{lo}, detectors: []Detector{unpublished, absent}}, "", []string{"docker: port 7946/tcp is not published",
			"interface: no interface of this host has an address that others can dial; bring up a network, write HOST:PORT, or bind to 127.0.0.1 if one host is enough"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.host.options()
			o.Hint = tt.hint
			e := Explain(t.Context(), "auto", netip.MustParseAddrPort("0.0.0.0:7946"), o)
			want := `node.advertise: "auto": ` + strings.Join(tt.want, "\n")
			if e.Err == nil || e.Err.Error() != want || !errors.Is(e.Err, ErrNoAddress) {
				t.Fatalf("%v\nwant %s", e.Err, want)
			}
			for _, line := range tt.want { // as the doctor prints them
				name, reason, _ := strings.Cut(line, ": ")
				if !slices.ContainsFunc(e.Steps, func(s Step) bool { return s.Name == name && s.Reason == reason }) {
					t.Errorf("no step %s says %q: %+v", name, reason, e.Steps)
				}
			}
		})
	}
}

// A step that hangs leaves the next its chance.
func TestStepsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := host{interfaces: server, detectors: []Detector{hanging("docker"), fakeDetector{name: "registry", found: Address{Addr: "192.0.2.1:1"}}}}.options()
		start := time.Now()
		e := Explain(t.Context(), "auto", netip.MustParseAddrPort("0.0.0.0:7946"), o)
		if e.Addr != "192.0.2.1:1" || time.Since(start) != defaultStepTimeout {
			t.Fatalf("after %v: %v, %v", time.Since(start), e, e.Err)
		}
		// Asked alone it has all the time that the caller gives.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start = time.Now()
		if e := Explain(ctx, "docker", netip.MustParseAddrPort("0.0.0.0:7946"), o); !errors.Is(e.Err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Fatalf("after %v: %v", time.Since(start), e.Err)
		}
	})
}

type hanging string

func (h hanging) Name() string { return string(h) }

func (h hanging) Detect(ctx context.Context, _ netip.AddrPort) (Address, error) {
	<-ctx.Done()
	return Address{}, ctx.Err()
}

// What one step has found stays while that step does not find it, whatever a later one
// has to say; what an earlier step finds is better.
func TestAddressOfAStepStays(t *testing.T) {
	docker := &fakeDetector{name: "docker", found: Address{Addr: "192.0.2.1:32768"}}
	registry := &fakeDetector{name: "registry", err: ErrNotApplicable}
	bound := netip.MustParseAddrPort("0.0.0.0:7946")
	o := host{interfaces: server, detectors: []Detector{docker, registry}}.options()
	o.Used = Explain(t.Context(), "auto", bound, o)
	for _, reason := range []error{errors.New("connection refused"), fmt.Errorf("%w: no socket", ErrNotApplicable)} {
		docker.found, docker.err = Address{}, reason
		if e := Explain(t.Context(), "auto", bound, o); !errors.Is(e.Err, ErrNoAddress) || !strings.Contains(e.Err.Error(), "192.0.2.1:32768") {
			t.Errorf("while the engine is down: %q, %v", e.Addr, e.Err)
		}
	}
	docker.found, docker.err = Address{Addr: "192.0.2.1:32769"}, nil
	if e := Explain(t.Context(), "auto", bound, o); e.Addr != "192.0.2.1:32769" {
		t.Errorf("mapped again: %q, %v", e.Addr, e.Err)
	}

	docker.found, docker.err = Address{}, errors.New("connection refused")
	o.Used = Explanation{}
	o.Used = Explain(t.Context(), "auto", bound, o)
	if o.Used.Addr != "192.0.2.7:7946" {
		t.Fatalf("at first %q, %v", o.Used.Addr, o.Used.Err)
	}
	docker.found, docker.err = Address{Addr: "192.0.2.1:32768"}, nil
	if e := Explain(t.Context(), "auto", bound, o); e.Addr != "192.0.2.1:32768" {
		t.Errorf("when the engine is back: %q, %v", e.Addr, e.Err)
	}
}

// The host may look like a container itself, as a machine of LXC does. Its interfaces are
// what others dial all the same.
func TestNetworkOfTheHost(t *testing.T) {
	bound := netip.MustParseAddrPort("0.0.0.0:7946")
	detector := fakeDetector{name: "docker", err: fmt.Errorf("%w: this container has the network of the host", ErrHostNetwork)}
	e := Explain(t.Context(), "auto", bound, host{interfaces: eth0, container: true, detectors: []Detector{detector}}.options())
	if e.Err != nil || !strings.HasSuffix(e.Addr, ":7946") || e.Steps[len(e.Steps)-1].Name != StepInterface {
		t.Errorf("found %q, %v", e.Addr, e.Err)
	}
	reported := Step{Name: "docker", Outcome: NotApplicable, Reason: "the port is the host's own: this container has the network of the host"}
	if !slices.Contains(e.Steps, reported) {
		t.Errorf("steps %+v, want %+v among them", e.Steps, reported)
	}
	detector.err = fmt.Errorf("%w: no socket", ErrNotApplicable)
	if e := Explain(t.Context(), "auto", bound, host{interfaces: eth0, container: true, detectors: []Detector{detector}}.options()); e.Err == nil {
		t.Errorf("found %q although nobody says that the network is the host's", e.Addr)
	}
}

func TestWatchBeginsWithWhatIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o := host{interfaces: server, detectors: []Detector{fakeDetector{name: "docker", err: errors.New("connection refused")}}}.options()
		o.Used = Explanation{Address: Address{Addr: "192.0.2.1:32768"}, Steps: []Step{{Name: "docker", Outcome: Found}}}
		attempts := 0
		o.Explained = func(Explanation) { attempts++ }
		events := follow(ctx, "auto", o)
		if e := <-events; e.addr != "192.0.2.1:32768" || e.err == nil {
			t.Fatalf("yielded %+v, want the address in use and why it is not found", e)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(events) > 0 || attempts < 3 {
			t.Fatalf("after %d attempts: %d more", attempts, len(events))
		}
	})
}

func TestECS(t *testing.T) {
	const awsvpc = `{"Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.2.106"],"IPv6Addresses":["2001:db8:5::106"]}]}`
	const bridge = `{"Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"]}],"Ports":[
		{"ContainerPort":7946,"Protocol":"udp","HostPort":49155,"HostIp":"0.0.0.0"},
		{"ContainerPort":8080,"Protocol":"tcp","HostPort":49153,"HostIp":"0.0.0.0"},
		{"ContainerPort":7946,"Protocol":"tcp","HostPort":49154,"HostIp":"0.0.0.0"}]}`
	const dual = `{"Networks":[{"NetworkMode":"bridge"}],"Ports":[
		{"ContainerPort":7946,"Protocol":"tcp","HostPort":49160,"HostIp":"::"},
		{"ContainerPort":7946,"Protocol":"tcp","HostPort":49154,"HostIp":"0.0.0.0"}]}`
	const several = `{"Networks":[{"NetworkMode":"bridge"}],"Ports":[
		{"ContainerPort":7946,"Protocol":"tcp","HostPort":49160,"HostIp":"2001:db8::9"},
		{"ContainerPort":7946,"Protocol":"tcp","HostPort":49161,"HostIp":"192.0.2.9"},
		{"ContainerPort":7946,"Protocol":"tcp","HostPort":49162,"HostIp":"192.0.2.1"}]}`
	for _, tt := range []struct {
		name, answer string
		status       int
		hostIP       string
		bound        string
		want         string
		err          string
	}{
		{name: "awsvpc", answer: awsvpc, want: "10.0.2.106:7946"},
		{name: "awsvpc, IPv6", answer: awsvpc, bound: "[2001:db8:5::106]:7946", want: "[2001:db8:5::106]:7946"},
		{name: "bridge", answer: bridge, hostIP: "192.0.2.1", want: "192.0.2.1:49154"},
		{name: "bridge, bound to an address", answer: strings.ReplaceAll(bridge, "0.0.0.0", "192.0.2.9"), want: "192.0.2.9:49154"},
		{name: "awsvpc, at the host's address", answer: awsvpc, hostIP: "2001:db8:5::106", bound: "[::]:7946", want: "[2001:db8:5::106]:7946"},
		{name: "awsvpc, of the family of the host's", answer: awsvpc, hostIP: "2001:db8:5::1", bound: "[::]:7946", want: "[2001:db8:5::106]:7946"},
		{name: "bridge, both families at ports of their own", answer: dual, hostIP: "192.0.2.1", want: "192.0.2.1:49154"},
		{name: "bridge, both families, and the host is IPv6", answer: dual, hostIP: "2001:db8::1", want: "[2001:db8::1]:49160"},
		{name: "bridge, IPv6 alone", answer: strings.ReplaceAll(bridge, "0.0.0.0", "::"), hostIP: "192.0.2.1", err: "ecs: port 7946 of the task of ECS is mapped at [::]:49154 alone, and detect.host_ip 192.0.2.1 is not of that family"},
		{name: "bridge, IPv4 alone, and the host is IPv6", answer: bridge, hostIP: "2001:db8::1", err: "is mapped at 0.0.0.0:49154 alone"},
		{name: "bridge, several addresses", answer: several, hostIP: "192.0.2.9", want: "192.0.2.9:49161"},
		{name: "bridge, several addresses, and none is the host's", answer: several, want: "192.0.2.1:49162"},
		{name: "bridge, several addresses, and the host is IPv6", answer: several, hostIP: "2001:db8::1", want: "[2001:db8::9]:49160"},
		{name: "bridge, loopback alone", answer: strings.ReplaceAll(bridge, "0.0.0.0", "127.0.0.1"), hostIP: "192.0.2.1", err: "no port mapping of 7946/tcp that others reach"},
		{name: "bridge, no address is all", answer: strings.ReplaceAll(bridge, "0.0.0.0", ""), hostIP: "2001:db8::1", want: "[2001:db8::1]:49154"},
		{name: "bridge without the host", answer: bridge, err: "ecs: port 7946 of the task of ECS is port 49154 of its host, whose address is not told; set detect.host_ip"},
		{name: "bridge without mapping", answer: `{"Networks":[{"NetworkMode":"bridge"}]}`, hostIP: "192.0.2.1", err: "no port mapping of 7946/tcp"},
		{name: "not JSON", answer: "hello", err: "not the JSON of a container"},
		{name: "not found", answer: "", status: 404, err: "404"},
		{name: "host", answer: `{"Networks":[{"NetworkMode":"host"}]}`, err: "a container (eth0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tt.status != 0 {
					w.WriteHeader(tt.status)
				}
				fmt.Fprint(w, tt.answer)
			}))
			defer server.Close()
			o := host{interfaces: eth0, container: true, env: map[string]string{"ECS_CONTAINER_METADATA_URI_V4": server.URL}}.options()
			if tt.hostIP != "" {
				o.HostIP = netip.MustParseAddr(tt.hostIP)
			}
			bound := "0.0.0.0:7946"
			if tt.bound != "" {
				bound = tt.bound
			}
			e := Explain(t.Context(), "auto", netip.MustParseAddrPort(bound), o)
			if e.Addr != tt.want || (e.Err == nil) != (tt.err == "") {
				t.Fatalf("found %q, %v, want %q", e.Addr, e.Err, tt.want)
			}
			if tt.err != "" && !strings.Contains(e.Err.Error(), tt.err) {
				t.Errorf("%v\nwant %s", e.Err, tt.err)
			}
		})
	}
	o := host{interfaces: eth0, container: true, env: map[string]string{"ECS_CONTAINER_METADATA_URI_V4": "http://127.0.0.1:1"}}.options()
	if e := Explain(t.Context(), "auto", netip.MustParseAddrPort("0.0.0.0:7946"), o); e.Err == nil || !strings.Contains(e.Err.Error(), "ecs: the task metadata") {
		t.Errorf("nobody answers: %v", e.Err)
	}
}

func TestIsolated(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	const eth0 = "sys/class/net/eth0/"
	veth := func(more ...string) fstest.MapFS {
		m := fstest.MapFS{eth0 + "iflink": file("9"), eth0 + "ifindex": file("2"), eth0 + "uevent": file("INTERFACE=eth0\nIFINDEX=2")}
		for _, name := range more {
			m[name] = file("")
		}
		return m
	}
	hostNet := fstest.MapFS{".dockerenv": file(""), eth0 + "iflink": file("2"), eth0 + "ifindex": file("2")}
	macvlan := veth(".dockerenv")
	macvlan[eth0+"uevent"] = file("DEVTYPE=macvlan\nINTERFACE=eth0\nIFINDEX=2")
	cgroup := veth()
	cgroup["proc/1/cgroup"] = file("12:pids:/docker/0123456789ab")
	nerdctl := veth()
	nerdctl["proc/1/cgroup"] = file("0::/")
	nerdctl["proc/self/mountinfo"] = file("600 590 8:1 /var/lib/nerdctl/1935db59/containers/default/" + strings.Repeat("5e", 32) + "/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw")
	resolved := veth()
	resolved["proc/self/mountinfo"] = file("30 22 0:24 /resolvconf/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw")
	rootless := fstest.MapFS{"run/.containerenv": file(""), eth0 + "iflink": file("2"), eth0 + "ifindex": file("2"), eth0 + "tun_flags": file("0x1")}
	for _, tt := range []struct {
		name string
		root fstest.MapFS
		env  string
		want []string // nil: not isolated
	}{
		{"Docker, bridge", veth(".dockerenv"), "", []string{"/.dockerenv", "eth0 is one end of a pair"}},
		{"Podman", veth("run/.containerenv"), "", []string{"/run/.containerenv"}},
		{"Podman, by its variable", veth(), "podman", []string{"container=podman"}},
		{"by its cgroup", cgroup, "", []string{"docker in /proc/1/cgroup"}},
		{"nerdctl, by its mounts", nerdctl, "", []string{"/proc/self/mountinfo", "eth0 is one end of a pair"}},
		{"a machine with mounts of its own", resolved, "", nil},
		{"a machine that calls itself a container", veth(), "lxc", nil},
		{"rootless", rootless, "", []string{"eth0 is a tunnel"}},
		{"Docker, network of the host", hostNet, "", nil},
		{"macvlan", macvlan, "", nil},
		{"no container, with a pair all the same", veth(), "", nil},
		{"no container", fstest.MapFS{}, "", nil},
		{"nothing is known of the interface", fstest.MapFS{".dockerenv": file("")}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := isolated(tt.root, func(string) (string, bool) { return tt.env, tt.env != "" }, "eth0")
			if (got != "") != (tt.want != nil) {
				t.Fatalf("%q, want %q", got, tt.want)
			}
			for _, part := range tt.want {
				if !strings.Contains(got, part) {
					t.Errorf("%q does not say %q", got, part)
				}
			}
		})
	}
}

func TestExplanationOnOneLine(t *testing.T) {
	e := Explain(t.Context(), "auto", netip.MustParseAddrPort("0.0.0.0:7946"),
		host{interfaces: server, detectors: []Detector{unpublished}}.options())
	const want = "docker: failed (port 7946/tcp is not published); kubernetes: not applicable (not in a pod of Kubernetes)"
	if s := e.String(); !strings.Contains(s, want) || !strings.HasSuffix(s, "interface: 192.0.2.7:7946 (interface eth0)") {
		t.Errorf("%s", s)
	}
	if e := Explain(t.Context(), "atuo", netip.AddrPort{}, host{}.options()); !errors.Is(e.Err, driver.ErrInvalid) || e.Steps != nil {
		t.Errorf("a setting that cannot be read: %+v", e)
	}
}
