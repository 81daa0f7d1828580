package grammar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/registrar/docker/engine"
)

// What is found in the field: families of addresses, containers with an address of their
// own, choices of one container, keys of forks, images by id, thousands of ports.

// driven sets what kind a network of a container is, as Networks does.
func driven(network, kind string) option {
	return func(c *engine.Container) {
		e := c.NetworkSettings.Networks[network]
		e.Driver = kind
		c.NetworkSettings.Networks[network] = e
	}
}

// exposing exposes ports as an engine shows them whose network publishes nothing: not among
// those of the network.
func exposing(ports ...string) option {
	return func(c *engine.Container) {
		for _, p := range ports {
			c.Config.ExposedPorts[p] = struct{}{}
		}
	}
}

// row is one container, and what comes of it.
type row struct {
	name     string
	rules    Rules
	c        engine.Container
	want     []string
	problems []string // parts of what is reported, one for each
	never    string   // part of nothing that is reported
}

func checkRows(t *testing.T, rows []row, other func(string) (engine.Container, bool)) {
	t.Helper()
	for _, test := range rows {
		t.Run(test.name, func(t *testing.T) {
			if err := test.rules.Validate(); err != nil {
				t.Fatal(err)
			}
			services, problems := test.rules.Services(test.c, other)
			var have []string
			for _, s := range services {
				have = append(have, reported(s))
			}
			if diff := cmp.Diff(test.want, have); diff != "" {
				t.Errorf("services (-want +have):\n%s", diff)
			}
			for n, err := range problems {
				if n >= len(test.problems) || !strings.Contains(err.Error(), test.problems[n]) || strings.Contains(err.Error(), "\n") {
					t.Errorf("it reports %q; want %q", err, test.problems)
				}
				if test.never != "" && strings.Contains(err.Error(), test.never) {
					t.Errorf("%q says %q", err, test.never)
				}
			}
			if len(problems) < len(test.problems) {
				t.Errorf("it reports %v; want %q", problems, test.problems)
			}
		})
	}
}

const sixthHost = "2001:db8::102"

func TestFamilies(t *testing.T) {
	at := func(ip, host string) Rules {
		return Rules{Hostname: "hostname", IP: ip, HostIP: host, IPFromLabel: "ip"}
	}
	bound := func(places ...string) engine.Container { return run("web", "nginx", publish("80/tcp", places...)) }
	one := func(addr string) []string { return []string{"hostname:web:80 nginx " + addr + " {} {}"} }
	podman := func(c engine.Container) engine.Container { c.NetworkSettings.Ports["80/tcp"][0].HostIP = ""; return c }
	checkRows(t, []row{
		{name: "both, and the host is IPv4", rules: at("", testHost), c: bound(":::8001", "0.0.0.0:8000"), want: one(testHost + ":8000")},
		{name: "both, and the host is IPv6", rules: at("", sixthHost), c: bound("0.0.0.0:8000", ":::8001"), want: one("[" + sixthHost + "]:8001")},
		{name: "both, and the ip is IPv6", rules: at(sixthHost, testHost), c: bound("0.0.0.0:8000", ":::8001"), want: one("[" + sixthHost + "]:8001")},
		{name: "IPv6 alone, and the ip and the host of either", rules: at(testHost, sixthHost), c: bound(":::8001"), want: one("[" + sixthHost + "]:8001")},
		{name: "IPv4 alone, and the ip and the host of either", rules: at(sixthHost, testHost), c: bound("8000"), want: one(testHost + ":8000")},
		{name: "IPv6 alone", rules: at("", testHost), c: bound(":::18081"), problems: []string{"published at [::]:18081, which is IPv6 alone, and 192.168.1.102 is IPv4"}},
		{name: "IPv4 alone", rules: at("", sixthHost), c: bound("18081"), problems: []string{"published at 0.0.0.0:18081, which is IPv4 alone, and 2001:db8::102 is IPv6"}},
		{name: "IPv6 alone, and the ip is IPv4", rules: at(testHost, ""), c: bound(":::18081"), problems: []string{"or set detect.host_ip to an address of this host of IPv6"}},
		{name: "an address of IPv6, and the ip is IPv4", rules: at(testHost, ""), c: bound("2001:db8::7:8001"), problems: []string{"published at [2001:db8::7]:8001, which is IPv6 alone"}},
		{name: "an address of IPv4, and the ip is IPv6", rules: at(sixthHost, testHost), c: bound("10.0.0.7:8001"), problems: []string{"or take registrar.ip out"}},
		{name: "loopback of IPv6, and the ip is IPv4", rules: at(testHost, ""), c: bound("::1:8001"), problems: []string{"[::1]:8001, where only this host can dial it, which is IPv6 alone"}},
		{name: "loopback of IPv4, and the ip is IPv4", rules: at(testHost, ""), c: bound("127.0.0.1:8001"), want: one(testHost + ":8001")},
		{name: "an address of IPv6, and the host is IPv4", rules: at("", testHost), c: bound("2001:db8::7:8001"), want: one("[2001:db8::7]:8001")},
		{name: "IPv4 in IPv6 is IPv4", rules: at("", testHost), c: bound("::ffff:0.0.0.0:8001"), want: one(testHost + ":8001")},
		{name: "the host's own address beats a lower one", rules: at("", testHost), c: bound("10.0.0.7:8002", testHost+":8001"), want: one(testHost + ":8001")},
		{name: "so it does of IPv6", rules: at("", sixthHost), c: bound("10.0.0.7:8002", "2001:db8::1:8003", sixthHost+":8001"), want: one("[" + sixthHost + "]:8001")},
		{name: "and one for all", rules: at("", testHost), c: bound("0.0.0.0:8002", testHost+":8001"), want: one(testHost + ":8001")},
		{name: "the family of the host beats a lower address", rules: at("", sixthHost), c: bound("10.0.0.7:8002", "2001:db8::1:8003"), want: one("[2001:db8::1]:8003")},
		{name: "Podman says no address, and the host is IPv6", rules: at("", sixthHost), c: podman(bound("8000")), want: one("[" + sixthHost + "]:8000")},
		{name: "Podman says no address, and the host is IPv4", rules: at("", testHost), c: podman(bound("8000")), want: one(testHost + ":8000")},
		{name: "the address of a label is IPv4", rules: at("", sixthHost), c: run("web", "nginx", publish("80/tcp", ":::8000"), labels("ip=10.42.1.7/16")),
			problems: []string{"IPv6 alone, and 10.42.1.7 is IPv4; the name is from the image; publish it for IPv4 too (-p 0.0.0.0:PORT:PORT), or give it an address of IPv6"}},
		{name: "SERVICE_IP is IPv6", rules: at(testHost, ""), c: run("web", "nginx", publish("80/tcp", "8000"), env("SERVICE_IP="+sixthHost)),
			problems: []string{"IPv4 alone, and 2001:db8::102 is IPv6; the name is from the image; publish it for IPv6 too (-p [::]:PORT:PORT)"}},
		{name: "nothing is known", rules: at("", ""), c: bound(":::8000"), problems: []string{"the address of this host is not known; the name is from the image; set registrar.ip or detect.host_ip"}},
		{name: "on the host, where nobody knows the family", rules: at(sixthHost, testHost), c: run("web", "nginx", in("host"), exposing("80/tcp")), want: one("[" + sixthHost + "]:80")},
	}, nil)
}

func TestContainersWithAnAddressOfTheirOwn(t *testing.T) {
	internal := Rules{Hostname: "hostname", HostIP: testHost, Internal: true}
	const own = "192.168.66.50"
	stands := func(options ...option) engine.Container {
		return run("hole", "lab/hole:5", append([]option{in("lan", "lan="+own), exposing("80/tcp")}, options...)...)
	}
	is := func(parts ...string) []string {
		var all []string
		for _, p := range parts {
			all = append(all, "hostname:hole:"+p)
		}
		return all
	}
	routed := func(name, image string, v4, v6 string, options ...option) engine.Container {
		c := run(name, image, append([]option{expose("80/tcp"), in("net", "net=10.9.0.4")}, options...)...)
		e := c.NetworkSettings.Networks["net"]
		e.GlobalIPv6Address = "2001:db8:9::4"
		c.NetworkSettings.Networks["net"] = e
		c.NetworkSettings.Ports["80/tcp"] = []engine.Binding{{HostIP: "0.0.0.0", HostPort: v4}, {HostIP: "::", HostPort: v6}}
		return c
	}
	checkRows(t, []row{
		{name: "whose driver nobody says", rules: noIP(), c: stands(), want: is("80 hole " + own + ":80 {} {}")},
		{name: "macvlan", rules: noIP(), c: stands(driven("lan", "macvlan")), want: is("80 hole " + own + ":80 {} {}")},
		{name: "ipvlan", rules: noIP(), c: stands(driven("lan", "ipvlan")), want: is("80 hole " + own + ":80 {} {}")},
		{name: "and registrar.ip is of the host", rules: agent(), c: stands(driven("lan", "macvlan")), want: is("80 hole " + own + ":80 {} {}")},
		{name: "two ports and a name", rules: noIP(), c: stands(exposing("53/udp"), env("SERVICE_80_NAME=admin")),
			want: is("53:udp hole-53 "+own+":53 {udp} {}", "80 admin "+own+":80 {} {}")},
		{name: "IPv6", rules: noIP(), c: run("hole", "hole", in("lan", "lan=2001:db8:7::50"), exposing("80/tcp")), want: is("80 hole [2001:db8:7::50]:80 {} {}")},
		{name: "a bridge publishes nothing either, but lists what is exposed", rules: noIP(), c: run("hole", "hole", in("lan", "lan="+own), expose("80/tcp")),
			problems: []string{"it is not published; publish it with -p"}},
		{name: "a bridge, as the engine says", rules: noIP(), c: stands(driven("lan", "bridge")), problems: []string{"it is not published; publish it with -p"}},
		{name: "an overlay", rules: noIP(), c: stands(driven("lan", "overlay")), problems: []string{"it is not published"}},
		{name: "the default network", rules: noIP(), c: stands(in("bridge", "bridge=172.17.0.9")), problems: []string{"it is not published"}},
		{name: "a network of two, of which nobody says which it is", rules: noIP(), c: stands(in("lan", "lan="+own, "back=172.30.0.5")), problems: []string{"it is not published"}},
		{name: "what exposes nothing is listed by no bridge either", rules: noIP(), c: run("hole", "hole", in("lan", "lan="+own), env("SERVICE_NETWORKS=x")), problems: []string{"it exposes no port"}},
		{name: "and a name of a port makes no difference", rules: noIP(), c: run("hole", "hole", in("lan", "lan="+own), env("SERVICE_80_NAME=x")), problems: []string{"it exposes no port"}},
		{name: "beside a bridge, as the engine says", rules: noIP(), c: stands(in("back", "back=172.30.0.5", "lan="+own), driven("back", "bridge"), driven("lan", "macvlan")),
			want: is("80 hole " + own + ":80 {} {}")},
		{name: "beside a bridge that publishes it", rules: noIP(), c: stands(in("back", "back=172.30.0.5", "lan="+own), driven("back", "bridge"), driven("lan", "macvlan"), publish("80/tcp", "8000")),
			want: is("80 hole " + testHost + ":8000 {} {}")},
		{name: "beside a bridge that publishes it, and it says where", rules: noIP(), c: stands(in("back", "back=172.30.0.5", "lan="+own), driven("lan", "macvlan"), publish("80/tcp", "8000"), env("SERVICE_NETWORK=lan")),
			want: is("80 hole " + own + ":80 {} {}")},
		{name: "an internal macvlan leads nowhere", rules: noIP(), c: stands(driven("lan", "macvlan"), func(c *engine.Container) {
			e := c.NetworkSettings.Networks["lan"]
			e.Internal = true
			c.NetworkSettings.Networks["lan"] = e
		}), problems: []string{"it is not published"}},
		{name: "without an address", rules: noIP(), c: stands(in("lan", "lan="), driven("lan", "macvlan")),
			problems: []string{"it is in network lan, whose containers others reach as they are, and the engine says no address of it; give it one there (--ip), or write SERVICE_IP"}, never: "-p"},
		{name: "the address that a label gives", rules: Rules{Hostname: "hostname", IPFromLabel: "ip"}, c: stands(labels("ip=10.42.1.7/16")), want: is("80 hole 10.42.1.7:80 {} {}")},
		{name: "a port that it names and does not expose", rules: noIP(), c: stands(driven("lan", "macvlan"), env("SERVICE_9090_NAME=metrics")),
			want: is("80 hole-80 "+own+":80 {} {}", "9090 metrics "+own+":9090 {} {}")},

		{name: "routed", rules: noIP(), c: routed("hole", "hole", "", ""), want: is("80 hole 10.9.0.4:80 {} {}")},
		{name: "routed in a network that is no bridge", rules: noIP(), c: routed("hole", "hole", "", "", driven("net", "bridge"), func(c *engine.Container) {
			c.NetworkSettings.Networks["a"] = engine.Endpoint{IPAddress: "10.8.0.4", Driver: "overlay"}
			c.HostConfig.NetworkMode = "a"
		}), want: is("80 hole 10.9.0.4:80 {} {}")},
		{name: "routed for IPv6, at the host for IPv4", rules: noIP(), c: routed("hole", "hole", "8000", ""), want: is("80 hole " + testHost + ":8000 {} {}")},
		{name: "routed for IPv6, and the host is IPv6", rules: Rules{Hostname: "hostname", HostIP: sixthHost}, c: routed("hole", "hole", "8000", ""), want: is("80 hole [2001:db8:9::4]:80 {} {}")},
		{name: "routed, and the label says where", rules: Rules{Hostname: "hostname", HostIP: testHost, IPFromLabel: "ip"}, c: routed("hole", "hole", "", "", labels("ip=10.1.1.1")), want: is("80 hole 10.1.1.1:80 {} {}")},
		{name: "routed for IPv4, at the host for IPv6, which is not known", rules: noIP(), c: routed("hole", "hole", "", "8000"), want: is("80 hole 10.9.0.4:80 {} {}")},
		{name: "no binding and no address is exposed alone", rules: noIP(), c: run("hole", "hole", func(c *engine.Container) { c.NetworkSettings.Ports["80/tcp"] = []engine.Binding{{}} }),
			problems: []string{"it is not published"}},

		{name: "a network that it names", rules: internal, c: run("hole", "hole", in("stack_backend", "stack_backend=172.30.1.4", "edge=172.31.0.4"), expose("80/tcp"), env("SERVICE_NETWORK=edge")),
			want: is("80 hole 172.31.0.4:80 {} {}")},
		{name: "by the name that Compose knows", rules: internal, c: run("hole", "hole", in("stack_backend", "stack_backend=172.30.1.4", "stack_edge=172.31.0.4"), expose("80/tcp"),
			labels("com.docker.compose.project=stack", "SERVICE_NETWORK=edge")), want: is("80 hole 172.31.0.4:80 {} {}")},
		{name: "for one port", rules: internal, c: run("hole", "hole", in("back", "back=172.30.1.4", "edge=172.31.0.4"), expose("80/tcp", "81/tcp"), env("SERVICE_81_NETWORK=edge", "SERVICE_NAME=x", "SERVICE_X=y")),
			want: is("80 x-80 172.30.1.4:80 {} {x:y}", "81 x-81 172.31.0.4:81 {} {x:y}")},
		{name: "without registrar.internal", rules: agent(), c: run("hole", "hole", in("back", "back=172.30.1.4", "edge=172.31.0.4"), publish("80/tcp", "8000"), env("SERVICE_NETWORK=edge")),
			want: is("80 hole 172.31.0.4:80 {} {}")},
		{name: "a network in which it is not", rules: internal, c: run("hole", "hole", in("back", "back=172.30.1.4", "front="), expose("80/tcp"), env("SERVICE_NETWORK=edge")),
			problems: []string{`SERVICE_NETWORK: "edge": the container is in no such network; name one of back, front`}},
		{name: "a network without an address", rules: internal, c: run("hole", "hole", in("back", "back=172.30.1.4", "front="), expose("80/tcp"), env("SERVICE_NETWORK=front")),
			problems: []string{`SERVICE_NETWORK: "front": the container has no address in that network`}},
		{name: "an address that it says", rules: agent(), c: run("hole", "hole", publish("80/tcp", "8000"), env("SERVICE_IP=10.9.9.9")), want: is("80 hole 10.9.9.9:8000 {} {}")},
		{name: "of one port", rules: agent(), c: run("hole", "hole", publish("80/tcp", "8000"), publish("81/tcp", "8001"), env("SERVICE_81_IP=10.9.9.9")),
			want: is("80 hole-80 "+testHost+":8000 {} {}", "81 hole-81 10.9.9.9:8001 {} {}")},
		{name: "that is none", rules: agent(), c: run("hole", "hole", publish("80/tcp", "8000"), env("SERVICE_IP=here")), problems: []string{`port 80/tcp: SERVICE_IP: "here": no address`}},
		{name: "that nobody can dial", rules: agent(), c: run("hole", "hole", publish("80/tcp", "8000"), labels("SERVICE_IP=0.0.0.0")), problems: []string{`label SERVICE_IP: "0.0.0.0": the address of all interfaces`}},
		{name: "goes before that of the label", rules: Rules{Hostname: "hostname", IP: testHost, IPFromLabel: "ip"}, c: run("hole", "hole", publish("80/tcp", "8000"), env("SERVICE_IP=10.9.9.9"), labels("ip=10.1.1.1")),
			want: is("80 hole 10.9.9.9:8000 {} {}")},
		{name: "with registrar.internal", rules: internal, c: run("hole", "hole", expose("80/tcp"), env("SERVICE_IP=10.9.9.9")), want: is("80 hole 10.9.9.9:80 {} {}")},
		{name: "on the network of the host", rules: agent(), c: run("hole", "hole", in("host"), exposing("80/tcp"), env("SERVICE_IP=10.9.9.9")), want: is("80 hole 10.9.9.9:80 {} {}")},
		{name: "of what is not published is nothing", rules: agent(), c: run("hole", "hole", expose("80/tcp"), env("SERVICE_IP=10.9.9.9")), problems: []string{"it is not published"}},
	}, nil)
}

func TestPortsOfTheHostThatAreNotExposed(t *testing.T) {
	host := func(options ...option) engine.Container {
		return run("bridge", "lab/bridge:1", append([]option{in("host", "host=")}, options...)...)
	}
	is := func(parts ...string) []string {
		var all []string
		for _, p := range parts {
			all = append(all, "hostname:bridge:"+p)
		}
		return all
	}
	checkRows(t, []row{
		{name: "one", rules: noIP(), c: host(env("SERVICE_8080_NAME=smarthome", "SERVICE_8080_TAGS=ui", "PORT=8080")), want: is("8080 smarthome " + testHost + ":8080 {ui} {}")},
		{name: "by a tag", rules: noIP(), c: host(labels("SERVICE_8080_TAGS=ui")), want: is("8080 bridge " + testHost + ":8080 {ui} {}")},
		{name: "two and a name for both", rules: noIP(), c: host(env("SERVICE_80_NAME=a", "SERVICE_443_CHECK_TCP=true", "SERVICE_REGION=eu")),
			want: is("80 a "+testHost+":80 {} {region:eu}", "443 bridge-443 "+testHost+":443 {} {check_tcp:true region:eu}")},
		{name: "UDP", rules: noIP(), c: host(env("SERVICE_53_udp_NAME=dns")), want: is("53:udp dns " + testHost + ":53 {udp} {}")},
		{name: "UDP, and more of it", rules: noIP(), c: host(env("SERVICE_53_udp_NAME=dns", "SERVICE_53_TAGS=a")), want: is("53:udp dns " + testHost + ":53 {a udp} {}")},
		{name: "both protocols", rules: noIP(), c: host(env("SERVICE_53_udp_NAME=dns", "SERVICE_53_tcp_NAME=dns")), want: is("53 dns "+testHost+":53 {} {}", "53:udp dns "+testHost+":53 {udp} {}")},
		{name: "beside one that is exposed", rules: noIP(), c: host(exposing("80/tcp"), env("SERVICE_9090_NAME=metrics", "SERVICE_443_TAGS=x")),
			want: is("80 bridge-80 "+testHost+":80 {} {}", "9090 metrics "+testHost+":9090 {} {}")},
		{name: "of one that is exposed for UDP", rules: noIP(), c: host(exposing("53/udp"), env("SERVICE_53_NAME=dns")), want: is("53:udp dns " + testHost + ":53 {udp} {}")},
		{name: "a range names none", rules: noIP(), c: host(env("SERVICE_8000-8010_NAME=x")), problems: []string{"it exposes no port; name each that it listens on with SERVICE_<port>_NAME"}},
		{name: "nothing", rules: noIP(), c: host(env("SERVICE_NAME=x")), problems: []string{"it exposes no port; name each that it listens on with SERVICE_<port>_NAME"}},
		{name: "one that is ignored", rules: noIP(), c: host(env("SERVICE_8080_IGNORE=1")), problems: []string{`port 8080/tcp: not registered: SERVICE_8080_IGNORE="1"`}},
		{name: "not beside the host's network", rules: noIP(), c: run("bridge", "x", env("SERVICE_8080_NAME=x")), problems: []string{"it exposes no port"}, never: "SERVICE_<port>_NAME"},
		{name: "in a container's own network", rules: Rules{Hostname: "hostname", Internal: true}, c: run("bridge", "x", env("SERVICE_8080_NAME=x")), want: is("8080 x 172.17.0.5:8080 {} {}")},
	}, nil)
}

// Who cannot publish a port by -p is not told to.
func TestHintsFitTheCase(t *testing.T) {
	owner := run("owner", "x", in("none", "none="))
	owner.ID = strings.Repeat("0e", 32)
	bridged := run("bridged", "x", publish("80/tcp", ":::8000"))
	bridged.ID = strings.Repeat("0f", 32)
	swarm := labels("com.docker.swarm.task.id=x", "com.docker.swarm.service.name=shop")
	checkRows(t, []row{
		{name: "a task of a Swarm", rules: noIP(), c: run("shop.1.x", "shop", in("default", "ingress=10.0.0.5", "shop_default=10.0.1.5"), expose("80/tcp"), swarm),
			problems: []string{"docker service update --publish-add mode=host,target=80"}, never: "-p,"},
		{name: "a task of a Swarm whose ports are not listed", rules: noIP(), c: run("shop.1.x", "shop", in("shop_default", "shop_default=10.0.1.5"), exposing("80/tcp"), swarm),
			problems: []string{"mode=host,target=80"}, never: "with -p"},
		{name: "a task that publishes at its host", rules: noIP(), c: run("shop.1.x", "shop", in("default", "shop_default=10.0.1.5"), publish("80/tcp", "8000"), swarm),
			want: []string{"hostname:shop.1.x:80 shop " + testHost + ":8000 {} {}"}},
		{name: "no network", rules: noIP(), c: run("x", "x", in("none", "none="), exposing("80/tcp")), problems: []string{"it has no network; run it without --network none"}, never: "-p"},
		{name: "a sidecar of one that has no network", rules: noIP(), c: run("side", "x", in("container:owner"), exposing("80/tcp")),
			problems: []string{"container owner, whose network it has joined, has no address in any network; publish the port there"}, never: "-p"},
		{name: "a sidecar of one that publishes another family", rules: noIP(), c: run("side", "x", in("container:bridged"), exposing("80/tcp")),
			problems: []string{"(-p 0.0.0.0:PORT:PORT) of container bridged"}},
		{name: "any other", rules: noIP(), c: run("x", "x", expose("80/tcp")), problems: []string{"publish it with -p, or set registrar.internal"}},
	}, among(owner, bridged))
}

func TestKeysOfForks(t *testing.T) {
	published := func(options ...option) engine.Container {
		return run("pg", "lab/pg:16", append([]option{publish("5432/tcp", "15432")}, options...)...)
	}
	hostname := func(c *engine.Container) { c.Config.Hostname = "620ee55c98d3" }
	one := func(tags, attrs string) []string {
		return []string{"hostname:pg:5432 pg " + testHost + ":15432 {" + tags + "} {" + attrs + "}"}
	}
	checkRows(t, []row{
		{name: "templates in tags", rules: agent(), c: published(hostname, env("SERVICE_TAGS={{.Config.Hostname}},primary")), want: one("620ee55c98d3 primary", "")},
		{name: "of one port", rules: agent(), c: published(labels("SERVICE_5432_TAGS=a,{{ toUpper (strSlice .Name 1) }}", "SERVICE_TAGS=b")), want: one("PG a", "")},
		{name: "a comma within", rules: agent(), c: published(labels("SERVICE_TAGS={{ if true }}x,y{{ else }}z{{ end }}")), want: one("x y", "")},
		{name: "merged", rules: Rules{Hostname: "hostname", IP: testHost, MergeTags: true}, c: published(labels("SERVICE_5432_TAGS={{ .Config.Image }}", "SERVICE_TAGS=b")), want: one("b lab/pg:16", "")},
		{name: "one that fails", rules: agent(), c: published(env("SERVICE_TAGS=a,{{ .Nothing }},b")), want: one("a b", ""), problems: []string{`SERVICE_TAGS: "a,{{ .Nothing }},b": the template fails`}},
		{name: "one that cannot be read", rules: agent(), c: published(env("SERVICE_TAGS={{ .ID")), want: one("", ""), problems: []string{"the template fails"}},
		{name: "one brace is none", rules: agent(), c: published(env("SERVICE_TAGS=traefik.rule=HostRegexp(`{sub:[a-z]+}`)")), want: one("traefik.rule=HostRegexp(`{sub:[a-z]+}`)", "")},
		{name: "a check's end by another name", rules: agent(), c: published(env("SERVICE_CHECK_DEREGISTER=3m", "SERVICE_CHECK_TCP=true")), want: one("", "check_deregister_after:3m check_tcp:true")},
		{name: "by a third", rules: agent(), c: published(env("SERVICE_5432_CHECK_DEREGISTER_CRITICAL_SERVICE_AFTER=3m")), want: one("", "check_deregister_after:3m")},
		{name: "registrator's name for it goes before", rules: agent(), c: published(env("SERVICE_CHECK_DEREGISTER=3m", "SERVICE_CHECK_DEREGISTER_AFTER=5m")), want: one("", "check_deregister_after:5m")},
		{name: "what Consul serves", rules: agent(), c: published(env("SERVICE_ENABLE_TAG_OVERRIDE=true")), want: one("", "enable_tag_override:true")},
		{name: "an alias", rules: agent(), c: published(env("SERVICE_ALIAS=pg-master")), want: one("", "alias:pg-master"), problems: []string{`SERVICE_ALIAS: "pg-master": it is an attribute and nothing more: a service has one name here`}},
		{name: "a check within the container", rules: agent(), c: published(labels("SERVICE_5432_CHECK_DOCKER=pg_isready")), want: one("", "check_docker:pg_isready"),
			problems: []string{`label SERVICE_5432_CHECK_DOCKER: "pg_isready": it is an attribute and nothing more: nothing is run within a container`}},
		{name: "a check that is none", rules: agent(), c: published(env("SERVICE_CHECK_SHELL=bash")), want: one("", "check_shell:bash"), problems: []string{"no check has such a key; write one of check_http,"}},
		{name: "one warning for each", rules: agent(), c: run("pg", "pg", publish("1/tcp", "1"), publish("2/tcp", "2"), env("SERVICE_ALIAS=x", "SERVICE_CHECK_DOCKER=y")),
			want:     []string{"hostname:pg:1 pg-1 192.168.1.102:1 {} {alias:x check_docker:y}", "hostname:pg:2 pg-2 192.168.1.102:2 {} {alias:x check_docker:y}"},
			problems: []string{"SERVICE_ALIAS", "SERVICE_CHECK_DOCKER"}},
		{name: "of a container that is not registered nothing is told", rules: agent(), c: published(env("SERVICE_ALIAS=x"), state(engine.State{Status: "exited"})), problems: []string{"it is exited"}},
	}, nil)
	for _, key := range checkKeys {
		if hint := unserved(key); hint != "" {
			t.Errorf("%s: %s", key, hint)
		}
	}
}

// A container may have any template for its tags, and none holds up the registrar or takes
// its memory.
func TestTemplatesOfContainersAreBounded(t *testing.T) {
	grows := `{{ $a := "0123456789abcdef" }}` + strings.Repeat(`{{ $a = %s }}`, 40) + `{{ $a }}`
	for _, tags := range []string{
		`{{ range 1000000000 }}{{ end }}`,
		`{{ range $i := 100000 }}x{{ end }}`,
		`{{ if true }}{{ range 1000000000 }}{{ end }}{{ end }}`,
		`{{ if false }}{{ else }}{{ range 1000000000 }}{{ end }}{{ end }}`,
		`{{ with 1 }}{{ range 1000000000 }}{{ end }}{{ end }}`,
		`{{ with 0 }}{{ else }}{{ range 1000000000 }}{{ end }}{{ end }}`,
		`{{ if false }}{{ else if true }}{{ range 1000000000 }}{{ end }}{{ end }}`,
		`{{ define "a" }}{{ template "a" }}{{ template "a" }}{{ end }}{{ template "a" }}`,
		`{{ block "a" . }}{{ range 1000000000 }}{{ end }}{{ end }}`,
		`{{ printf "%0999999d" 1 }}`,
		`{{ print "a" "b" }}`,
		`{{ html "<" }}`,
		strings.ReplaceAll(grows, "%s", `replace -1 "" $a $a`),
		strings.ReplaceAll(grows, "%s", `join $a (split "" $a)`),
		strings.Repeat("{{ .ID }}", 1000),
	} {
		before := used(t)
		services, problems := agent().Services(web(env("SERVICE_TAGS="+tags)), nil)
		if len(services) != 1 || len(problems) == 0 || len(problems[0].Error()) > 2*maxOwnText {
			t.Errorf("%.60s: %v, %.300v", tags, services, problems)
		}
		if took := used(t) - before; took > 2*time.Second {
			t.Errorf("%.60s: it took %v of a processor", tags, took)
		}
	}
	for tags, want := range map[string]string{
		`{{ replace -1 "-" "_" "a-b-c" }}`:                      "a_b_c",
		`{{ replace 1 "-" "_" "a-b-c" }}`:                       "a_b-c",
		`{{ join "+" (split "-" "a-b") }}`:                      "a+b",
		`{{ with .Config.Image }}{{ . }}{{ end }}`:              "nginx:1.27",
		`{{/* a comment */}}{{ if eq .Name "/web" }}y{{ end }}`: "y",
	} {
		services, problems := agent().Services(web(env("SERVICE_TAGS="+tags)), nil)
		if len(services) != 1 || !slices.Equal(services[0].Tags, []string{want}) || len(problems) > 0 {
			t.Errorf("%s: %v, %v; want %s", tags, services, problems, want)
		}
	}
}

func TestNamesOfImagesByID(t *testing.T) {
	const hex = "5ae01c2d9b77"
	digest := hex + strings.Repeat("0", 52)
	for _, test := range []struct{ image, id, want string }{
		{"sha256:" + digest, "", "x"},
		{"sha256:" + hex, "", "x"},
		{"sha512:" + digest + digest, "", "x"},
		{digest, "", "x"},
		{hex, "", "x"},
		{hex[:7], "", "x"},
		{hex, "sha256:" + digest, "x"},
		{hex[:5], "sha256:" + digest, "x"},
		{hex[:4], digest, "x"}, // as Podman has it
		{"@sha256:" + digest, "", "x"},
		{"", "", "x"},
		{hex[:3], "sha256:" + digest, hex[:3]}, // too short to be distinguished from a name
		{"5ae01c2", "sha256:" + strings.Repeat("7", 64), "5ae01c2"},
		{"cafe", "sha256:" + digest, "cafe"},
		{"cafe", "", "cafe"},
		{"decade", "", "decade"},
		{"acceded", "", "acceded"},
		{"team/" + hex, "", hex},
		{hex + ":1.2", "", hex},
		{hex + "@sha256:" + digest, "", hex},
		{"registry.lab:5000/team/web:1.2@sha256:" + digest, "", "web"},
		{"registry.lab:5000/team/web@sha256:" + digest, "sha256:" + digest, "web"},
		{"team/web@sha512:" + digest, "", "web"},
		{"abc123x", "", "abc123x"},
		{"ABC1234", "", "ABC1234"},
	} {
		c := run("x", test.image)
		c.Image = test.id
		if have, source := defaultName(c); have != test.want || (source == "the container") != (test.want == "x") {
			t.Errorf("image %q with id %.20q is %q by %s; want %q", test.image, test.id, have, source, test.want)
		}
	}
}

// media is a container with n UDP ports, as a media server has them.
func media(n int, options ...option) engine.Container {
	c := run("media", "lab/media:1", options...)
	for i := range n {
		publish(fmt.Sprintf("%d/udp", 10000+i), fmt.Sprint(10000+i))(&c)
	}
	return c
}

// What is left out for one reason is one line, however many ports it is.
func TestWhatIsLeftOutIsOneLine(t *testing.T) {
	each := func(from, to int) option {
		return func(c *engine.Container) {
			for i := from; i < to; i++ {
				c.Config.Env = append(c.Config.Env, fmt.Sprintf("SERVICE_%d_IGNORE=1", 10000+i))
			}
		}
	}
	odd := func(c *engine.Container) {
		for i := range 100 {
			c.Config.Env = append(c.Config.Env, fmt.Sprintf("SERVICE_%d_IGNORE=1", 10000+2*i))
		}
	}
	for _, test := range []struct {
		name     string
		rules    Rules
		c        engine.Container
		services int
		want     []string
	}{
		{"all", agent(), media(4000, env("SERVICE_IGNORE=1")), 0, []string{`container media: ports 10000-13999/udp: not registered: SERVICE_IGNORE="1"`}},
		{"a range", agent(), media(4000, env("SERVICE_10001-13999_IGNORE=true"), publish("80/tcp", "80")), 2, []string{`container media: ports 10001-13999/udp: not registered: SERVICE_10001-13999_IGNORE="true"`}},
		{"one by one", agent(), media(50, each(0, 50)), 0, []string{`container media: ports 10000-10049/udp: not registered: SERVICE_10000_IGNORE="1", SERVICE_10001_IGNORE="1", SERVICE_10002_IGNORE="1" and 47 more`}},
		{"two", agent(), media(50, each(3, 5)), 48, []string{`container media: ports 10003-10004/udp: not registered: SERVICE_10003_IGNORE="1", SERVICE_10004_IGNORE="1"`}},
		{"every other", agent(), media(200, odd), 100, []string{`container media: ports 10000/udp, 10002/udp, 10004/udp, 10006/udp, 10008/udp, 10010/udp, 10012/udp, 10014/udp, 10016/udp, 10018/udp, 10020/udp, 10022/udp and 88 more: not registered: `}},
		{"both protocols", agent(), run("x", "x", publish("443/tcp", "443"), publish("443/udp", "443"), publish("444/udp", "444"), env("SERVICE_IGNORE=1")), 0,
			[]string{`container x: ports 443/tcp, 443-444/udp: not registered: SERVICE_IGNORE="1"`}},
		{"not published", agent(), run("x", "x", expose("80/tcp", "81/tcp", "90/tcp"), publish("443/tcp", "443")), 1, []string{"container x: ports 80-81/tcp, 90/tcp: not registered: it is not published"}},
		{"without a name", Rules{Hostname: "hostname", IP: testHost, Explicit: true}, media(4000), 0, []string{"container media: ports 10000-13999/udp: not registered: registrar.explicit"}},
		{"unwell", agent(), media(4000, env("SERVICE_10000_PUBLISH_NOT_READY=1"), state(engine.State{Status: "running", Health: &engine.Health{Status: "starting"}})), 1, []string{"container media: ports 10001-13999/udp: not registered: its health check"}},
		{"for several reasons", agent(), run("x", "x", expose("80/tcp", "81/tcp"), publish("443/tcp", "443"), publish("444/tcp", "444"), publish("445/tcp", "445"), env("SERVICE_444-445_IGNORE=1")), 1,
			[]string{"container x: ports 80-81/tcp: not registered: it is not published", `container x: ports 444-445/tcp: not registered: SERVICE_444-445_IGNORE="1"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			services, problems := test.rules.Services(test.c, nil)
			if len(services) != test.services || len(problems) != len(test.want) {
				t.Fatalf("%d services, %d problems, as %v", len(services), len(problems), problems[:min(3, len(problems))])
			}
			for n, err := range problems {
				if !strings.HasPrefix(err.Error(), test.want[n]) || !errors.Is(err, ErrLeftOut) {
					t.Errorf("%q\nwant %q", err, test.want[n])
				}
			}
		})
	}
}

// worst are containers whose cost has grown with the square of their ports, or would.
var worst = map[string]func(ports int) (Rules, engine.Container){
	"published": func(n int) (Rules, engine.Container) { return agent(), media(n, env("SERVICE_NAME=media")) },
	"one id": func(n int) (Rules, engine.Container) {
		return agent(), media(n, env("SERVICE_ID=media", "SERVICE_TAGS={{.Name}}"))
	},
	"ignored":    func(n int) (Rules, engine.Container) { return agent(), media(n, env("SERVICE_IGNORE=true")) },
	"no address": func(n int) (Rules, engine.Container) { return Rules{Hostname: "hostname"}, media(n) },
	"a setting for each": func(n int) (Rules, engine.Container) {
		c := media(n)
		for i := range n {
			c.Config.Env = append(c.Config.Env, fmt.Sprintf("SERVICE_%d_NAME=m%d", 10000+i, i), fmt.Sprintf("SERVICE_%d_TAGS=a,b", 10000+i))
		}
		return agent(), c
	},
	"settings alone": func(n int) (Rules, engine.Container) {
		c := run("media", "x", in("host"))
		for i := range n {
			c.Config.Env = append(c.Config.Env, fmt.Sprintf("SERVICE_%d_NAME=m%d", 10000+i, i))
		}
		return agent(), c
	},
}

// The cost of a container grows with its ports, and not with their square: four times as many
// take about four times as long, which sixteen is far from.
func TestCostOfPortsIsLinear(t *testing.T) {
	const few, many = 4000, 16000
	for name, of := range worst {
		t.Run(name, func(t *testing.T) {
			cost := func(n int) time.Duration {
				rules, c := of(n)
				fastest := time.Hour
				for range 3 {
					start := used(t)
					rules.Services(c, nil)
					fastest = min(fastest, used(t)-start)
				}
				return fastest
			}
			var ratio float64
			for range 3 { // what else runs here may take the time of one
				if ratio = float64(cost(many)) / float64(cost(few)); ratio < 9 {
					return
				}
			}
			t.Errorf("%d ports cost %.1f times as much as %d", many, ratio, few)
		})
	}
}

func BenchmarkServices(b *testing.B) {
	for name, of := range worst {
		for _, n := range []int{1, 100, 4000} {
			rules, c := of(n)
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(name, " ", "-"), n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					rules.Services(c, nil)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/port")
			})
		}
	}
}
