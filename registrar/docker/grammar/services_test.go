package grammar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
)

const (
	testHost = "192.168.1.102" // where the containers of these tests run
	testID   = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90"
)

// agent is the rules of most rows: this host, with its address configured.
func agent() Rules { return Rules{Hostname: "hostname", IP: testHost} }

// noIP is the same where only the address of the host is known.
func noIP() Rules { return Rules{Hostname: "hostname", HostIP: testHost} }

type option func(*engine.Container)

// run is a container in the default network that runs.
func run(name, image string, options ...option) engine.Container {
	c := engine.Container{
		ID: testID, Name: "/" + name,
		Config:     engine.ContainerConfig{Image: image, Labels: map[string]string{}, ExposedPorts: map[string]struct{}{}},
		State:      engine.State{Status: "running", Running: true},
		HostConfig: engine.HostConfig{NetworkMode: "bridge"},
		NetworkSettings: engine.NetworkSettings{
			Ports:    map[string][]engine.Binding{},
			Networks: map[string]engine.Endpoint{"bridge": {IPAddress: "172.17.0.5"}},
		},
	}
	for _, o := range options {
		o(&c)
	}
	return c
}

// publish maps a port, given as 80/tcp, to those of the host, given as HOST:PORT or PORT.
func publish(port string, at ...string) option {
	return func(c *engine.Container) {
		expose(port)(c)
		for _, a := range at {
			b := engine.Binding{HostIP: "0.0.0.0", HostPort: a}
			if colon := strings.LastIndex(a, ":"); colon >= 0 {
				b = engine.Binding{HostIP: a[:colon], HostPort: a[colon+1:]}
			}
			c.NetworkSettings.Ports[port] = append(c.NetworkSettings.Ports[port], b)
		}
	}
}

func expose(ports ...string) option {
	return func(c *engine.Container) {
		for _, p := range ports {
			c.Config.ExposedPorts[p] = struct{}{}
			if _, ok := c.NetworkSettings.Ports[p]; !ok {
				c.NetworkSettings.Ports[p] = nil
			}
		}
	}
}

func env(variables ...string) option {
	return func(c *engine.Container) { c.Config.Env = append(c.Config.Env, variables...) }
}

func labels(pairs ...string) option {
	return func(c *engine.Container) {
		for _, p := range pairs {
			name, value, _ := strings.Cut(p, "=")
			c.Config.Labels[name] = value
		}
	}
}

// in puts a container into networks, given as name=address, the first of which its mode
// names.
func in(mode string, networks ...string) option {
	return func(c *engine.Container) {
		c.HostConfig.NetworkMode = mode
		c.NetworkSettings.Networks = map[string]engine.Endpoint{}
		for _, n := range networks {
			name, ip, _ := strings.Cut(n, "=")
			e := engine.Endpoint{IPAddress: ip}
			if strings.Contains(ip, ":") {
				e = engine.Endpoint{GlobalIPv6Address: ip}
			}
			c.NetworkSettings.Networks[name] = e
		}
		if mode == "host" {
			c.NetworkSettings.Ports = map[string][]engine.Binding{}
		}
	}
}

func state(s engine.State) option { return func(c *engine.Container) { c.State = s } }

// among is what Rules.Services asks for other containers.
func among(all ...engine.Container) func(string) (engine.Container, bool) {
	return func(id string) (engine.Container, bool) {
		for _, c := range all {
			if c.ID == id || c.ShortName() == id {
				return c, true
			}
		}
		return engine.Container{}, false
	}
}

// told returns a service as the rows have it: "id name address:port {tags} {attrs}".
func reported(s Service) string {
	slices.Sort(s.Tags)
	return fmt.Sprintf("%s %s %s {%s} {%s}", s.ID, s.Name, s.Instance("").Addr, strings.Join(s.Tags, " "), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(s.Attrs), "map["), "]"))
}

var (
	redis = run("redis.0", "progrium/redis", publish("6379/tcp", "10000"))
	nginx = []option{publish("443/tcp", "4443"), publish("80/tcp", "8000")}
)

func web(options ...option) engine.Container {
	return run("web", "nginx:1.27", append([]option{publish("80/tcp", "8000")}, options...)...)
}

func two(options ...option) engine.Container {
	return run("nginx.0", "nginx", append(slices.Clone(nginx), options...)...)
}

// Rows of the first kind are what registrator does right, those of the second what it
// does wrong.
func TestServices(t *testing.T) {
	pause := run("pause", "pause", in("bridge", "bridge=172.17.0.9"))
	pause.ID = strings.Repeat("ab", 32)
	joined := in("container:" + pause.ID)
	with := func(r Rules, change func(*Rules)) Rules { change(&r); return r }
	internal := func(r *Rules) { r.Internal = true }
	explicit := func(r *Rules) { r.Explicit = true }
	for _, test := range []struct {
		row   string
		rules Rules
		c     engine.Container
		other func(string) (engine.Container, bool)
		want  []string
		// problems are parts of what is reported, one for each.
		problems []string
	}{
		{"4.1 1: one port", agent(), redis, nil, []string{"hostname:redis.0:6379 redis 192.168.1.102:10000 {} {}"}, nil},
		{"4.1 2: by the environment", agent(), run("redis.0", "progrium/redis", publish("6379/tcp", "10000"), env("SERVICE_NAME=db", "SERVICE_TAGS=master,backups", "SERVICE_REGION=us2")), nil,
			[]string{"hostname:redis.0:6379 db 192.168.1.102:10000 {backups master} {region:us2}"}, nil},
		{"4.1 2: by labels", agent(), run("redis.0", "progrium/redis", publish("6379/tcp", "10000"), labels("SERVICE_NAME=db", "SERVICE_TAGS=master,backups", "SERVICE_REGION=us2")), nil,
			[]string{"hostname:redis.0:6379 db 192.168.1.102:10000 {backups master} {region:us2}"}, nil},
		{"4.1 3: two ports", agent(), two(), nil,
			[]string{"hostname:nginx.0:80 nginx-80 192.168.1.102:8000 {} {}", "hostname:nginx.0:443 nginx-443 192.168.1.102:4443 {} {}"}, nil},
		{"4.1 4: each with its own", agent(), two(env("SERVICE_443_NAME=https", "SERVICE_443_ID=https.12345", "SERVICE_443_SNI=enabled", "SERVICE_80_NAME=http", "SERVICE_TAGS=www")), nil,
			[]string{"hostname:nginx.0:80 http 192.168.1.102:8000 {www} {}", "https.12345 https 192.168.1.102:4443 {www} {sni:enabled}"}, nil},
		{"4.1 5: a name for two", agent(), two(env("SERVICE_NAME=web")), nil,
			[]string{"hostname:nginx.0:80 web-80 192.168.1.102:8000 {} {}", "hostname:nginx.0:443 web-443 192.168.1.102:4443 {} {}"}, nil},
		{"4.1 6: two exposed, one published", agent(), web(expose("443/tcp"), env("SERVICE_NAME=web")), nil,
			[]string{"hostname:web:80 web 192.168.1.102:8000 {} {}"}, []string{"port 443/tcp: not registered: it is not published"}},
		{"4.1 7: ignored", agent(), web(env("SERVICE_IGNORE=true")), nil, nil, []string{`not registered: SERVICE_IGNORE="true"`}},
		{"4.1 8: the image of a registry", agent(), run("x", "registry.local:5000/team/foobar:1.2", publish("80/tcp", "8000")), nil,
			[]string{"hostname:x:80 foobar 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 9: udp", agent(), run("dns", "dns", publish("53/udp", "53")), nil, []string{"hostname:dns:53:udp dns 192.168.1.102:53 {udp} {}"}, nil},
		{"4.1 10: a port of both protocols", agent(), run("agent", "x", publish("7946/udp", "32774"), publish("7946/tcp", "32781"), env("SERVICE_7946_NAME=gossip")), nil,
			[]string{"hostname:agent:7946 gossip 192.168.1.102:32781 {} {}", "hostname:agent:7946:udp gossip 192.168.1.102:32774 {udp} {}"}, nil},
		{"4.1 11: not published", agent(), run("web", "nginx", expose("80/tcp")), nil, nil, []string{"not published; publish it with -p, or set registrar.internal"}},
		{"4.1 11: internal", with(noIP(), internal), run("web", "nginx", expose("80/tcp")), nil, []string{"hostname:web:80 nginx 172.17.0.5:80 {} {}"}, nil},
		{"4.1 12: internal beats ip", with(agent(), internal), web(), nil, []string{"hostname:web:80 nginx 172.17.0.5:80 {} {}"}, nil},
		{"4.1 13: published on loopback", noIP(), run("web", "nginx", publish("80/tcp", "127.0.0.1:8000")), nil, []string{"hostname:web:80 nginx 127.0.0.1:8000 {} {}"}, nil},
		{"4.1 13: and an ip", agent(), run("web", "nginx", publish("80/tcp", "127.0.0.1:8000")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 14: on the host", agent(), run("web", "nginx", expose("80/tcp", "443/tcp"), in("host", "host=")), nil,
			[]string{"hostname:web:80 nginx-80 192.168.1.102:80 {} {}", "hostname:web:443 nginx-443 192.168.1.102:443 {} {}"}, nil},
		{"4.1 14: and nothing exposed", agent(), run("web", "nginx", in("host", "host=")), nil, nil, []string{"not registered: it exposes no port"}},
		{"on the host, internal", with(noIP(), internal), run("web", "nginx", expose("80/tcp"), in("host", "host=")), nil, []string{"hostname:web:80 nginx 192.168.1.102:80 {} {}"}, nil},
		{"4.1 15: in the network of another", agent(), run("web", "nginx", joined, func(c *engine.Container) { c.Config.ExposedPorts["80/tcp"] = struct{}{} }), among(pause),
			[]string{"hostname:web:80 nginx 172.17.0.9:80 {} {}"}, nil},
		{"in the network of another that publishes the port", agent(), run("web", "nginx", joined, func(c *engine.Container) { c.Config.ExposedPorts["80/tcp"] = struct{}{} }),
			func(string) (engine.Container, bool) { return run("vpn", "vpn", publish("80/tcp", "8000")), true }, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"in the network of one on the host", noIP(), run("web", "nginx", joined, func(c *engine.Container) { c.Config.ExposedPorts["80/tcp"] = struct{}{} }),
			func(string) (engine.Container, bool) { return run("vpn", "vpn", in("host")), true }, []string{"hostname:web:80 nginx 192.168.1.102:80 {} {}"}, nil},
		{"4.1 16: explicit without a name", with(agent(), explicit), web(), nil, nil, []string{"registrar.explicit"}},
		{"4.1 16: explicit with one of two", with(agent(), explicit), two(env("SERVICE_80_NAME=http")), nil, []string{"hostname:nginx.0:80 http 192.168.1.102:8000 {} {}"}, []string{"port 443/tcp"}},
		{"4.1 17: the address of a label", with(agent(), func(r *Rules) { r.IPFromLabel = "io.rancher.container.ip" }), web(labels("io.rancher.container.ip=10.42.1.7/16")), nil,
			[]string{"hostname:web:80 nginx 10.42.1.7:8000 {} {}"}, nil},
		{"4.1 17: the label is missing", with(agent(), func(r *Rules) { r.IPFromLabel = "io.rancher.container.ip" }), web(), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"the label is no address", with(agent(), func(r *Rules) { r.IPFromLabel = "ip" }), web(labels("ip=nowhere/8")), nil, nil, []string{`label ip: "nowhere": no address`}},
		{"4.1 18: tags for all", with(agent(), func(r *Rules) { r.Tags = []string{"dc1,prod"} }), web(env("SERVICE_TAGS=a,b")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {a b dc1 prod} {}"}, nil},
		{"4.1 18: a template", with(agent(), func(r *Rules) { r.Tags = []string{"{{ strSlice .ID 0 12 }}"} }), web(), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {a1b2c3d4e5f6} {}"}, nil},
		{"4.1 19: port key first", agent(), web(env("SERVICE_80_NAME=port", "SERVICE_NAME=all")), nil, []string{"hostname:web:80 port 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 19: port key last", agent(), web(env("SERVICE_NAME=all", "SERVICE_80_NAME=port")), nil, []string{"hostname:web:80 port 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 19: a label for all, a variable for the port", agent(), web(labels("SERVICE_NAME=all"), env("SERVICE_80_NAME=port")), nil, []string{"hostname:web:80 port 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 19: both for all", agent(), web(labels("SERVICE_NAME=label"), env("SERVICE_NAME=env")), nil, []string{"hostname:web:80 label 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 19: both for the port", agent(), web(labels("SERVICE_80_NAME=label"), env("SERVICE_80_NAME=env")), nil, []string{"hostname:web:80 label 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 20: lower case", agent(), web(env("service_name=x"), labels("service_name=y")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"4.1 21: the first = alone", agent(), web(env("SERVICE_TAGS=a.b=Host:c")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {a.b=Host:c} {}"}, nil},
		{"4.1 22: attributes", agent(), web(env("SERVICE_CHECK_INTERVAL=15s", "SERVICE_80_CHECK_HTTP=/h", "SERVICE_443_CHECK_TCP=true")), nil,
			[]string{"hostname:web:80 nginx 192.168.1.102:8000 {} {check_http:/h check_interval:15s}"}, nil},
		{"4.1 23: internal in a network of its own", with(agent(), internal), web(in("backend", "backend=10.5.0.3")), nil, []string{"hostname:web:80 nginx 10.5.0.3:80 {} {}"}, nil},

		{"4.2 1: not ignored", agent(), web(env("SERVICE_IGNORE=false")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"4.2 2: one of two ignored", agent(), two(env("SERVICE_443_IGNORE=1", "SERVICE_NAME=web")), nil, []string{"hostname:nginx.0:80 web 192.168.1.102:8000 {} {}"}, []string{`SERVICE_443_IGNORE="1"`}},
		{"4.2 3: the image has a digest", agent(), run("x", "team/foobar@sha256:"+testID, publish("80/tcp", "8000")), nil, []string{"hostname:x:80 foobar 192.168.1.102:8000 {} {}"}, nil},
		{"4.2 3: and a tag", agent(), run("x", "foobar:1.2@sha256:"+testID, publish("80/tcp", "8000")), nil, []string{"hostname:x:80 foobar 192.168.1.102:8000 {} {}"}, nil},
		{"the image is a digest alone", agent(), run("x", "sha256:"+testID, publish("80/tcp", "8000")), nil, []string{"hostname:x:80 x 192.168.1.102:8000 {} {}"}, nil},
		{"4.2 4: published from a network of its own", noIP(), web(in("backend", "backend=10.5.0.3")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"4.2 5: two bindings", noIP(), run("web", "nginx", publish("80/tcp", "127.0.0.1:8001", "[::]", "0.0.0.0:8000", "10.0.0.7:8002")), nil,
			[]string{"hostname:web:80 nginx 10.0.0.7:8002 {} {}"}, []string{`HostPort: "]": no port`}},
		{"4.2 5: two bindings and an ip", agent(), run("web", "nginx", publish("80/tcp", "127.0.0.1:8001", "10.0.0.7:8002", "0.0.0.0:8000", testHost+":8003")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8003 {} {}"}, nil},
		{"4.2 5: the family of the ip", with(agent(), func(r *Rules) { r.IP = "2001:db8::1" }), run("web", "nginx", publish("80/tcp", "0.0.0.0:8000", ":::8001")), nil, []string{"hostname:web:80 nginx [2001:db8::1]:8001 {} {}"}, nil},
		{"4.2 6: all of IPv6, of which the host has none", noIP(), run("web", "nginx", publish("80/tcp", ":::8000")), nil, nil,
			[]string{"published at [::]:8000, which is IPv6 alone, and 192.168.1.102 is IPv4"}},
		{"4.2 6: and the host has it", Rules{Hostname: "hostname", HostIP: "2001:db8::5"}, run("web", "nginx", publish("80/tcp", ":::8000")), nil, []string{"hostname:web:80 nginx [2001:db8::5]:8000 {} {}"}, nil},
		{"an address of IPv6", noIP(), run("web", "nginx", publish("80/tcp", "2001:db8::1:8000")), nil, []string{"hostname:web:80 nginx [2001:db8::1]:8000 {} {}"}, nil},
		{"4.2 10: sctp beside tcp", agent(), run("x", "x", publish("99/tcp", "99"), publish("99/sctp", "98"), env("SERVICE_99_NAME=x")), nil,
			[]string{"hostname:x:99 x 192.168.1.102:99 {} {}", "hostname:x:99:sctp x 192.168.1.102:98 {sctp} {}"}, nil},
		{"4.2 11: tags of the port alone", agent(), web(env("SERVICE_TAGS=a", "SERVICE_80_TAGS=b")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {b} {}"}, nil},
		{"4.2 11: merged", with(agent(), func(r *Rules) { r.MergeTags = true }), web(env("SERVICE_TAGS=a,c", "SERVICE_80_TAGS=b,c"), labels("SERVICE_TAGS=d")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {b c d} {}"}, nil},
		{"4.2 14: joined to what is not there", agent(), run("web", "nginx", in("container:short"), func(c *engine.Container) { c.Config.ExposedPorts["80/tcp"] = struct{}{} }), among(pause), nil, []string{`NetworkMode: "container:short"`}},
		{"4.2 14: and nobody to ask", agent(), run("web", "nginx", in("container:")), nil, nil, []string{`NetworkMode: "container:"`}},
		{"joined in a circle", agent(), run("web", "nginx", in("container:web")), among(run("web", "nginx", in("container:web"))), nil, []string{"without an end"}},

		{"a protocol beats none", agent(), run("dns", "dns", publish("53/udp", "53"), publish("53/tcp", "53"), env("SERVICE_53_udp_NAME=udp", "SERVICE_53_NAME=both")), nil,
			[]string{"hostname:dns:53 both 192.168.1.102:53 {} {}", "hostname:dns:53:udp udp 192.168.1.102:53 {udp} {}"}, nil},
		{"a range", agent(), run("x", "x", publish("10000/udp", "10000"), publish("10001/udp", "10001"), publish("80/tcp", "80"), env("SERVICE_10000-20000_IGNORE=yes", "SERVICE_10001_IGNORE=no")), nil,
			[]string{"hostname:x:80 x-80 192.168.1.102:80 {} {}", "hostname:x:10001:udp x-10001 192.168.1.102:10001 {udp} {}"}, []string{"port 10000/udp"}},
		{"the narrower range", agent(), web(env("SERVICE_1-100_X=narrow", "SERVICE_1-1000_X=wide", "SERVICE_X=all")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {x:narrow}"}, nil},
		{"no range", agent(), web(env("SERVICE_90-80_NAME=x", "SERVICE_99999_NAME=y")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, []string{"SERVICE_90-80_NAME", "SERVICE_99999_NAME"}},
		{"one id for two ports", agent(), two(env("SERVICE_ID=x")), nil, []string{"x:80 nginx-80 192.168.1.102:8000 {} {}", "x:443 nginx-443 192.168.1.102:4443 {} {}"}, nil},
		{"an id that another port has", agent(), two(env("SERVICE_443_ID=hostname:nginx.0:80")), nil, []string{"hostname:nginx.0:80 nginx-80 192.168.1.102:8000 {} {}"}, []string{"is the id of port 80/tcp"}},
		{"several networks", with(agent(), internal), web(in("front", "back=10.1.0.2", "front=10.2.0.2", "aaa=10.0.0.2")), nil, []string{"hostname:web:80 nginx 10.2.0.2:80 {} {}"}, nil},
		{"several networks of which none is named", with(agent(), internal), web(in("default", "c=", "b=2001:db8::2", "d=10.2.0.2")), nil, []string{"hostname:web:80 nginx [2001:db8::2]:80 {} {}"}, nil},
		{"an old engine", with(agent(), internal), web(func(c *engine.Container) { c.NetworkSettings.Networks, c.NetworkSettings.IPAddress = nil, "172.17.0.8" }), nil, []string{"hostname:web:80 nginx 172.17.0.8:80 {} {}"}, nil},
		{"no network", with(agent(), internal), run("web", "nginx", expose("80/tcp"), in("none", "none=")), nil, nil, []string{"no address in any network"}},
		{"no address of the host", Rules{Hostname: "hostname"}, web(), nil, nil, []string{"the address of this host is not known"}},
		{"healthy", agent(), web(state(engine.State{Status: "running", Health: &engine.Health{Status: "healthy"}})), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"not healthy yet", agent(), web(state(engine.State{Status: "running", Health: &engine.Health{Status: "starting"}})), nil, nil, []string{"health check says that it is starting"}},
		{"not healthy", agent(), web(state(engine.State{Status: "running", Health: &engine.Health{Status: "unhealthy"}})), nil, nil, []string{"health check says that it is unhealthy"}},
		{"not healthy, of a port for which that is nothing", agent(), web(env("SERVICE_80_PUBLISH_NOT_READY=true"), state(engine.State{Status: "running", Health: &engine.Health{Status: "unhealthy"}})), nil,
			[]string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"not healthy yet, of one port of two", agent(), two(labels("SERVICE_443_PUBLISH_NOT_READY=1"), state(engine.State{Status: "running", Health: &engine.Health{Status: "starting"}})), nil,
			[]string{"hostname:nginx.0:443 nginx-443 192.168.1.102:4443 {} {}"}, []string{"port 80/tcp: not registered: its health check says that it is starting"}},
		{"not healthy yet, and no port for which that is nothing", agent(), web(env("SERVICE_PUBLISH_NOT_READY=no", "SERVICE_99999_NAME=y"), state(engine.State{Status: "running", Health: &engine.Health{Status: "starting"}})), nil,
			nil, []string{"container web: not registered: its health check says that it is starting"}},
		{"paused, whatever is said", agent(), web(env("SERVICE_PUBLISH_NOT_READY=yes"), state(engine.State{Status: "paused", Running: true, Paused: true})), nil, nil, []string{"it is paused"}},
		{"paused", agent(), web(state(engine.State{Status: "paused", Running: true, Paused: true})), nil, nil, []string{"it is paused"}},
		{"stopped", agent(), web(state(engine.State{Status: "exited"})), nil, nil, []string{"it is exited"}},
		{"a label that is required", with(agent(), func(r *Rules) { r.RequireLabel = "muster.register=true" }), web(labels("muster.register=true")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"one with another value", with(agent(), func(r *Rules) { r.RequireLabel = "muster.register=true" }), web(labels("muster.register=false")), nil, nil, []string{"lacks the label muster.register=true"}},
		{"a label that says no", with(agent(), func(r *Rules) { r.RequireLabel = "muster.register" }), web(labels("muster.register=false")), nil, nil, []string{"lacks the label muster.register"}},
		{"a label that is there", with(agent(), func(r *Rules) { r.RequireLabel = "muster.register" }), web(labels("muster.register=")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"}, nil},
		{"ports that are none", agent(), web(publish("http/tcp", "1"), publish("0/tcp", "2"), publish("81/ip", "3"), publish("82/tcp", "many"), publish("83/tcp", "nowhere:83"), publish("84/tcp", "0")), nil,
			[]string{"hostname:web:80 nginx 192.168.1.102:8000 {} {}"},
			[]string{`port: "0/tcp"`, `port: "81/ip": unknown protocol`, `port: "http/tcp"`, `port 82/tcp: HostPort: "many"`, "ports 82-84/tcp: not registered", `port 83/tcp: HostIp: "nowhere": no address`, `port 84/tcp: HostPort: "0"`}},
		{"a template that fails", with(agent(), func(r *Rules) { r.Tags = []string{"a,{{ .Nothing }},b"} }), web(), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {a b} {}"}, []string{`registrar.tags: "{{ .Nothing }}": the template fails`}},
		{"other attributes", agent(), web(env("SERVICE_ENABLE_TAG_OVERRIDE=true", "SERVICE_80_tcp=x", "SERVICE_=none", "SERVICE_80_=none", "SERVICE_NAME")), nil, []string{"hostname:web:80 nginx 192.168.1.102:8000 {} {enable_tag_override:true tcp:x}"}, nil},
	} {
		t.Run(test.row, func(t *testing.T) {
			if err := test.rules.Validate(); err != nil {
				t.Fatal(err)
			}
			services, problems := test.rules.Services(test.c, test.other)
			var have []string
			for _, s := range services {
				have = append(have, reported(s))
				if s.Tags == nil || s.Attrs == nil || s.Reason == "" {
					t.Errorf("%+v lacks tags, attrs or a reason", s)
				}
			}
			if diff := cmp.Diff(test.want, have); diff != "" {
				t.Errorf("services (-want +have):\n%s", diff)
			}
			for n, err := range problems {
				if n >= len(test.problems) || !strings.Contains(err.Error(), test.problems[n]) || strings.Contains(err.Error(), "\n") {
					t.Errorf("it reports %q; want %q", err, test.problems)
				}
			}
			if len(problems) < len(test.problems) {
				t.Errorf("it reports %v; want %q", problems, test.problems)
			}
		})
	}
}

func TestMissingAddressReportsWhatWouldBe(t *testing.T) {
	_, problems := Rules{Hostname: "hostname", TTL: 30}.Services(web(), nil)
	var missing *AddressError
	if len(problems) != 1 || !errors.As(problems[0], &missing) {
		t.Fatalf("problems: %v; want one AddressError", problems)
	}
	if s := missing.Service; s.Port != 8000 || s.Address != "" || s.TTL != 30 {
		t.Errorf("it would register %+v", s)
	}
}

func TestSplitTags(t *testing.T) {
	for list, want := range map[string][]string{
		"":                       nil,
		"foobar":                 {"foobar"},
		"foo,bar":                {"foo", "bar"},
		`foo\,bar`:               {"foo,bar"},
		`foo,bar\,baz`:           {"foo", "bar,baz"},
		`\,foobar\,`:             {",foobar,"},
		",,,,foo,,,bar,,,":       {"foo", "bar"},
		",,,,":                   nil,
		`,,\,,`:                  {","},
		"hazelcast, test1":       {"hazelcast", "test1"},
		`a\b`:                    {`a\b`},
		"traefik.rule=Host(`x`)": {"traefik.rule=Host(`x`)"},
	} {
		if diff := cmp.Diff(want, SplitTags(list)); diff != "" {
			t.Errorf("SplitTags(%q) (-want +have):\n%s", list, diff)
		}
	}
}

func TestTagTemplates(t *testing.T) {
	c := web(env("SERVICE_80_NAME=foo", "HOME=/root"), labels(`facts={"zone":"eu-1"}`, "task=arn:aws:task/368f"))
	for list, want := range map[string][]string{ // of the configuration
		`a,{{ join "," .Config.Env }},b`:                         {"a", "SERVICE_80_NAME=foo", "HOME=/root", "b"},
		`{{ sIndex 0 .Config.Env }}`:                             {"SERVICE_80_NAME=foo"},
		`{{ sIndex -1 .Config.Env }}{{ sIndex 9 .Config.Env }}`:  {"HOME=/rootHOME=/root"},
		`{{ mIndex "nothing" .Config.Labels }}`:                  nil,
		`{{ .Config.Labels.nothing }}`:                           nil,
		`{{ toUpper .Name }},{{ toLower "ABC" }}`:                {"/WEB", "abc"},
		"{{ replace -1 `:` `-` .Config.Image }}":                 {"nginx-1.27"},
		`{{ index (split ":" .Config.Image) 1 }}`:                {"1.27"},
		`{{ splitIndex -1 "/" (mIndex "task" .Config.Labels) }}`: {"368f"},
		`{{ matchFirstElement "^SERVICE_" .Config.Env }}`:        {"SERVICE_80_NAME=foo"},
		`{{ matchFirstElement "^NONE" .Config.Env }}`:            nil,
		`{{ len (matchAllElements "." .Config.Env) }}`:           {"2"},
		`{{ (jsonParse (mIndex "facts" .Config.Labels)).zone }}`: {"eu-1"},
		`{{ strSlice .Name 1 }},{{ strSlice .Name 0 99 }}`:       {"web", "/web"},
		`{{ if .State.Running }}up,fine{{ end }}`:                {"up", "fine"},
	} {
		tags, errs := parseTags(keyForced, []string{list})
		if len(errs) > 0 {
			t.Errorf("%s: %v", list, errs)
		}
		var have []string
		for _, tag := range tags {
			more, err := tag.tags(c)
			if err != nil {
				t.Errorf("%s: %v", list, err)
			}
			have = append(have, more...)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s (-want +have):\n%s", list, diff)
		}
	}
}

func TestRulesAreRefused(t *testing.T) {
	for _, test := range []struct {
		rules     Rules
		key, hint string
	}{
		{Rules{}, keyHostname, "missing"},
		{Rules{Hostname: "a:b"}, keyHostname, "take it out"},
		{Rules{Hostname: "h", IP: "somewhere"}, keyIP, "want an IP"},
		{Rules{Hostname: "h", IP: "0.0.0.0"}, keyIP, "name one of this host"},
		{Rules{Hostname: "h", HostIP: "fe80::1%eth0"}, keyHostIP, "zone"},
		{Rules{Hostname: "h", RequireLabel: "=x"}, keyRequireLabel, "NAME=VALUE"},
		{Rules{Hostname: "h", Tags: []string{"a", "{{ .ID"}}, keyForced + "[1]", "template fails"},
		{Rules{Hostname: "h", Tags: []string{`{{ httpGet "http://x" }}`}}, keyForced + "[0]", "mIndex"},
		{Rules{Hostname: "h", TTL: -1}, keyTTL, "negative"},
	} {
		err := test.rules.Validate()
		var bad *driver.ConfigError
		if !errors.As(err, &bad) || bad.Key != test.key || !strings.Contains(bad.Error(), test.hint) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v; want %s reported with %q", test.rules, err, test.key, test.hint)
		}
	}
}
