package netlab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/internal/testing/process"
)

// echo makes this program answer each line on the address with the line.
const echo = "TEST_NETLAB_ECHO"

func TestMain(m *testing.M) {
	if addr := os.Getenv(echo); addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		serve(l)
		return
	}
	os.Exit(netlab.Main(m))
}

// serve answers lines, "VIA ADDR" by what it is answered itself at ADDR.
func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				line := lines.Text()
				if to, via := strings.CutPrefix(line, "VIA "); via {
					answer, err := ask(to, "hello")
					switch {
					case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED):
						line = "reset"
					case err != nil:
						line = "silence"
					default:
						line = answer
					}
				}
				fmt.Fprintln(c, line)
			}
		}()
	}
}

func ask(addr, line string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(answer), err
}

func TestWays(t *testing.T) {
	n := netlab.New(t)
	a, b, c := n.Host("a"), n.Host("b"), n.HostByCable("c")
	for _, h := range []*netlab.Host{a, b, c} {
		p, err := process.Start(process.Config{
			Program: "/proc/self/exe", Env: append(os.Environ(), echo+"="+h.IP()+":7"),
			Log: filepath.Join(t.TempDir(), "log"), Netns: h.Netns(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
	}
	// want waits until h is answered so by addr.
	want := func(h *netlab.Host, addr, answer string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var got string
		var err error
		for ctx.Err() == nil {
			if got, err = ask(h.IP()+":7", "VIA "+addr); got == answer {
				return
			}
		}
		t.Fatalf("%s asks %s: %q, %v; want %q", h.Name(), addr, got, err, answer)
	}
	ofA, ofB := a.IP()+":7", b.IP()+":7"
	want(a, ofB, "hello")
	want(b, ofA, "hello")

	n.Cut(a.IP(), b.IP(), netlab.Drop)
	want(a, ofB, "silence")
	want(b, ofA, "silence") // the answer is lost
	n.Heal()
	want(a, ofB, "hello")

	n.Cut(a.IP(), b.IP(), netlab.Reject)
	want(a, ofB, "reset")
	n.HealWay(a.IP(), b.IP())
	want(a, ofB, "hello")

	n.Part(netlab.Drop, []string{a.IP()}, []string{b.IP()})
	want(b, ofA, "silence")
	n.Heal()
	n.Part(netlab.Reject, []string{a.IP()}, []string{b.IP()}, []string{n.Middle()})
	want(a, ofB, "reset")
	want(b, ofA, "reset")
	n.Heal()
	n.Lose(b, 100)
	want(a, ofB, "silence")
	n.Heal()
	n.Lose(b, 10)
	want(a, ofB, "hello")
	n.BlockUDP()
	n.Heal()
	want(a, ofB, "hello")

	ofC := c.IP() + ":7"
	want(a, ofC, "hello")
	want(c, ofA, "hello")
	n.Trouble(c, netlab.Trouble{Delay: time.Second})
	want(a, ofC, "silence") // nobody waits for so long
	n.Heal()
	want(a, ofC, "hello")
	n.Trouble(c, netlab.Trouble{Jitter: 20 * time.Millisecond, Twice: 50})
	want(a, ofC, "hello")
	n.Cut(a.IP(), c.IP(), netlab.Drop)
	want(a, ofC, "silence")
	n.Heal()

	l, err := net.Listen("tcp", n.Middle()+":0")
	if err != nil {
		t.Fatal(err)
	}
	middle := l.Addr().String()
	go serve(l)
	t.Cleanup(func() { l.Close() })
	want(a, middle, "hello")
	n.Cut(a.IP(), n.Middle(), netlab.Reject)
	want(a, middle, "reset")
	want(b, middle, "hello")
	n.Cut(n.Middle(), a.IP(), netlab.Reject)
	want(a, middle, "reset")
	n.HealWay(a.IP(), n.Middle())
	n.Cut(n.Middle(), a.IP(), netlab.Drop)
	want(a, middle, "silence")
}
