package docker

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar/docker/engine"
)

const whereami = "github.com/musterhq/muster/internal/testing/images/whereami"

// found is what the program whereami prints.
type found struct {
	Addr, Source  string
	Error         string
	NotApplicable bool
	Self, How     string
	Milliseconds  float64
}

// readFound waits until the container has printed its line for the nth time.
func readFound(t *testing.T, c *testdocker.Container, n int) found {
	t.Helper()
	var f found
	wait.NoError(t, func() error {
		lines := strings.Split(strings.TrimSpace(c.Log()), "\n")
		if len(lines) < n {
			return fmt.Errorf("container %s has printed %q", c.Name, lines)
		}
		return json.Unmarshal([]byte(lines[n-1]), &f)
	})
	return f
}

// detectIn runs the detector in a container made with flags, and checks that the
// container has found itself.
func detectIn(t *testing.T, e *testdocker.Engine, flags ...string) (found, *testdocker.Container) {
	t.Helper()
	c := e.Run(testdocker.Options{Image: e.Build(whereami), Socket: true, Flags: flags}, "detect")
	f := readFound(t, c, 1)
	if f.Self != c.ID && !strings.Contains(strings.Join(flags, " "), "container:") {
		t.Errorf("found container %s (%s), is %s", f.Self, f.How, c.ID)
	}
	return f, c
}

func TestDetectorInContainers(t *testing.T) {
	e := testdocker.Require(t)
	netA, netB := e.Network(), e.Network()
	hostPort := func(c *testdocker.Container) string {
		return netip.MustParseAddrPort(c.Port("7946/tcp")).String()[len("0.0.0.0"):]
	}

	t.Run("bridge", func(t *testing.T) {
		f, c := detectIn(t, testdocker.Require(t), "-p", "0:7946")
		if want := c.Gateway("bridge") + hostPort(c); f.Addr != want || !strings.Contains(f.Source, "detect.host_ip") {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("bridge, host_ip", func(t *testing.T) {
		f, c := detectIn(t, testdocker.Require(t), "-p", "0:7946", "-e", "HOST_IP=10.0.0.5")
		if want := "10.0.0.5" + hostPort(c); f.Addr != want {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("a specific address", func(t *testing.T) {
		f, c := detectIn(t, testdocker.Require(t), "--network", netA, "-p", e.Gateway(netA)+":0:7946", "-e", "HOST_IP=10.0.0.5")
		if want := c.Port("7946/tcp"); f.Addr != want {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("two networks", func(t *testing.T) {
		e := testdocker.Require(t)
		c := e.Create(testdocker.Options{Image: e.Build(whereami), Socket: true, Flags: []string{"-p", "0:7946", "--network", netA}}, "detect")
		e.Docker("network", "connect", netB, c.ID)
		c.Start()
		f := readFound(t, c, 1)
		// The lower address, and not the one that comes first as a text: 172.9 before 172.18.
		lower := netip.MustParseAddr(e.Gateway(netA))
		if other := netip.MustParseAddr(e.Gateway(netB)); other.Less(lower) {
			lower = other
		}
		if want := lower.String() + hostPort(c); f.Addr != want {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("host", func(t *testing.T) {
		f, _ := detectIn(t, testdocker.Require(t), "--network", "host")
		if !f.NotApplicable || !strings.Contains(f.Error, "the network of the host") {
			t.Errorf("found %+v, want that it does not apply", f)
		}
	})
	t.Run("none", func(t *testing.T) {
		f, _ := detectIn(t, testdocker.Require(t), "--network", "none")
		if f.NotApplicable || !strings.Contains(f.Error, "no network; run it without --network none") {
			t.Errorf("found %+v, want a failure", f)
		}
	})
	t.Run("that of another container", func(t *testing.T) {
		e := testdocker.Require(t)
		owner := e.Run(testdocker.Options{Image: e.Build(whereami), Flags: []string{"-p", "0:7946"}}, "wait")
		f, _ := detectIn(t, e, "--network", "container:"+owner.ID)
		if want := owner.Gateway("bridge") + hostPort(owner); f.Addr != want {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("not published", func(t *testing.T) {
		f, _ := detectIn(t, testdocker.Require(t))
		const want = "port 7946 of this container is not published; run it with -p 7946:7946, or set node.advertise, or detect.require_external: false"
		if f.NotApplicable || f.Error != want {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("loopback alone", func(t *testing.T) {
		f, c := detectIn(t, testdocker.Require(t), "-p", "127.0.0.1:0:7946")
		if want := "is published at " + c.Port("7946/tcp") + " alone"; f.NotApplicable || !strings.Contains(f.Error, want) {
			t.Errorf("found %+v, want %s", f, want)
		}
	})
	t.Run("UDP alone", func(t *testing.T) {
		f, _ := detectIn(t, testdocker.Require(t), "-p", "0:7946/udp")
		if f.NotApplicable || !strings.Contains(f.Error, "for UDP alone") {
			t.Errorf("found %+v, want a failure", f)
		}
	})
	t.Run("all IPv6 addresses alone", func(t *testing.T) {
		f, _ := detectIn(t, testdocker.Require(t), "-p", "[::]:0:7946", "-e", "HOST_IP=2001:db8::5")
		if addr, err := netip.ParseAddrPort(f.Addr); err != nil || addr.Addr() != netip.MustParseAddr("2001:db8::5") {
			t.Errorf("found %+v, want [2001:db8::5]", f)
		}
	})
	t.Run("macvlan", func(t *testing.T) {
		e := testdocker.Require(t)
		network, err := e.TryNetwork("--driver", "macvlan", "--subnet", "198.51.100.0/24")
		if err != nil {
			t.Skipf("the kernel has no macvlan: %v", err)
		}
		f, _ := detectIn(t, e, "--network", network, "--ip", "198.51.100.7")
		if f.Addr != "198.51.100.7:7946" || !strings.Contains(f.Source, "macvlan") {
			t.Errorf("found %+v, want 198.51.100.7:7946", f)
		}
	})
	t.Run("a host name of its own", func(t *testing.T) {
		f, c := detectIn(t, testdocker.Require(t), "-p", "0:7946", "--hostname", "orders-1")
		if f.Self != c.ID {
			t.Errorf("found %+v, want %s", f, c.ID)
		}
	})
	t.Run("no socket", func(t *testing.T) {
		e := testdocker.Require(t)
		f := readFound(t, e.Run(testdocker.Options{Image: e.Build(whereami), Flags: []string{"-p", "0:7946"}}, "detect"), 1)
		if !f.NotApplicable || !strings.Contains(f.Error, "there is no engine to ask") {
			t.Errorf("found %+v, want that it does not apply", f)
		}
	})
	t.Run("no permission", func(t *testing.T) {
		f := readFound(t, e.Run(testdocker.Options{Image: e.Build(whereami), Socket: true, Flags: []string{"-p", "0:7946", "--user", "4711:4711"}}, "detect"), 1)
		if f.NotApplicable || !strings.Contains(f.Error, "access denied") || !strings.Contains(f.Error, "--group-add") {
			t.Errorf("found %+v, want the hint", f)
		}
	})
	t.Run("a socket that was missing", func(t *testing.T) {
		f := readFound(t, e.Run(testdocker.Options{Image: e.Build(whereami), Flags: []string{"-p", "0:7946", "-v", "/var/run/docker.sock"}}, "detect"), 1)
		if f.NotApplicable || !strings.Contains(f.Error, "it is a directory") {
			t.Errorf("found %+v, want the hint", f)
		}
	})
}

// Containers on networks of their own reach each other through the ports of their host.
func TestFoundAddressIsReachedFromAnotherNetwork(t *testing.T) {
	e := testdocker.Require(t)
	netA, netB := e.Network(), e.Network()
	f, c := detectIn(t, e, "-p", "0:7946", "--network", netA)
	other := e.Run(testdocker.Options{Image: e.Build(whereami), Flags: []string{"--network", netB}}, "dial", f.Addr)
	if status := other.Wait(); status != 0 || strings.TrimSpace(other.Log()) != c.ID {
		t.Errorf("dial %s from another network: %q, want %s", f.Addr, other.Log(), c.ID)
	}
}

func TestDetectorFindsTheNewPortAfterARestart(t *testing.T) {
	e := testdocker.Require(t)
	before, c := detectIn(t, e, "-p", "0:7946", "-e", "HOST_IP=10.0.0.5")
	c.Kill()
	// Another takes the port that is free now, so that it cannot be had again.
	e.Occupy(before.Addr[len("10.0.0.5:"):], e.Build(whereami), "wait")
	c.Start()
	after := readFound(t, c, 2)
	if want := "10.0.0.5:" + c.Port("7946/tcp")[len("0.0.0.0:"):]; after.Addr != want || after.Addr == before.Addr {
		t.Errorf("found %s, then %s, want %s", before.Addr, after.Addr, want)
	}
}

// BenchmarkDetect is from nothing, with a client of its own, to the address.
func BenchmarkDetect(b *testing.B) {
	e := testdocker.Require(b)
	c := e.Run(testdocker.Options{Image: e.Build(whereami), Flags: []string{"-p", "0:7946"}}, "wait")
	p := fakeEnvironment(fstest.MapFS{"proc/self/mountinfo": {Data: []byte("1 1 1:1 /containers/" + c.ID + "/hostname /etc/hostname rw - ext4 x rw\n")}}, "", nil)
	for b.Loop() {
		cl, err := engine.New(engine.Config{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := NewDetector(DetectorOptions{Engine: cl, environment: &p}).Detect(b.Context(), netip.MustParseAddrPort("0.0.0.0:7946")); err != nil {
			b.Fatal(err)
		}
		cl.Close()
	}
}
