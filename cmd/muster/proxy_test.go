//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// greeter serves the application of a node, which says whose it is and then reads on.
func greeter(t *testing.T, name, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	open := make(map[net.Conn]bool)
	var mu sync.Mutex
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			serving.Go(func() {
				fmt.Fprintln(c, name)
				_, _ = bufio.NewReader(c).ReadString(0)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
}

// through returns an open connection by way of a proxy, and who answers there.
func through(t *testing.T, proxy string) (net.Conn, string) {
	t.Helper()
	var c net.Conn
	var name string
	wait.NoError(t, func() (err error) {
		if c, err = net.Dial("tcp", proxy); err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(wait.Patience))
		name, err = bufio.NewReader(c).ReadString('\n')
		if err != nil {
			c.Close()
		}
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c, strings.TrimSpace(name)
}

// The proxies of all agents lead to the master, close their connections when it changes, and lead
// to the next one: after a resignation, and after a kill of which the application knows nothing.
func TestProxyFollowsTheMaster(t *testing.T) {
	c := emptyCluster(t)
	const n = 3
	addrs := testAddrs(t, 4*n)
	peers, web, apps, ports := addrs[:n], addrs[n:2*n], addrs[2*n:3*n], addrs[3*n:]
	proxies := make(map[string]string)
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		config := staticProvider(peers)
		config["node"] = map[string]any{
			"id": name, "bind": peers[i], "data_dir": t.TempDir(), "app_addrs": map[string]any{"pg": apps[i]},
		}
		config["proxy"] = []any{map[string]any{"listen": ports[i], "to": "master", "app": "pg"}}
		c.add(name, peers[i], web[i], config)
		greeter(t, name, apps[i])
		proxies[name] = ports[i]
	}
	c.start(c.agents...)
	master := c.waitMaster(0, n, c.agents...)

	live := slices.Clone(c.agents)
	// change has the master lose mastership, and looks at what becomes of a connection by way of
	// each proxy of live. A grant that was given up is never believed again; one that is left to
	// expire is for as long as nobody can know better, and the greeter of that node goes on.
	change := func(what string, members int, givenUp bool, lose func()) {
		t.Helper()
		type open struct {
			agent *agentProcess
			c     net.Conn
		}
		var all []open
		for _, a := range live {
			conn, name := through(t, proxies[a.name])
			if name != master.NodeID {
				t.Errorf("before %s, by %s: %s answers, and %s is master", what, a.name, name, master.NodeID)
			}
			all = append(all, open{a, conn})
		}
		began := time.Now()
		lose()
		live = slices.DeleteFunc(live, func(a *agentProcess) bool { return !a.running() })
		for _, o := range all {
			if !slices.Contains(live, o.agent) {
				continue
			}
			if _, err := o.c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s by %s: something was read", what, o.agent.name)
			} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Errorf("%s by %s: the connection is still open", what, o.agent.name)
			}
			t.Logf("%s by %s: closed after %v", what, o.agent.name, time.Since(began))
		}
		answered := make(map[string]string)
		for _, a := range live {
			_, answered[a.name] = through(t, proxies[a.name])
			t.Logf("%s by %s: the next answers after %v", what, a.name, time.Since(began))
		}
		for by, name := range answered {
			if givenUp && name == master.NodeID {
				t.Errorf("after %s, by %s: %s still answers", what, by, name)
			}
		}
		master = c.waitMaster(master.Term, members, live...)
		for _, a := range live { // on a busy machine it has changed once more since
			c.eventually("the proxy of "+a.name+" leads to the master", func(context.Context) bool {
				_, name := through(t, proxies[a.name])
				master = c.waitMaster(master.Term-1, members, live...)
				return name == master.NodeID
			})
		}
	}
	old, _ := c.split(master)
	change("a resignation", n, true, func() {
		if status, _, stderr := execute(t, "resign", "--agent", old.httpAddr); status != statusDone {
			t.Fatalf("resign: %s", stderr)
		}
	})
	old, _ = c.split(master)
	change("a kill", n-1, false, func() { c.kill(old) })

	c.eventually("the status and the metrics of a proxy", func(ctx context.Context) bool {
		s, err := c.status(ctx, live[0])
		if err != nil || len(s.Proxies) != 1 {
			return false
		}
		p := s.Proxies[0]
		return p.Listen == proxies[live[0].name] && p.App == "pg" && p.To == "master" && p.Master == master.NodeID && p.Term == master.Term &&
			p.Forwarded >= 4 && p.ReceivedBytes > 0 && p.MaxConnections == 1024
	})
	response, err := http.Get("http://" + live[0].httpAddr + httpapi.PathMetrics)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(metrics), `muster_proxy_forwarded_total{app="pg",listen="`+proxies[live[0].name]+`"}`) {
		t.Errorf("the metrics have no proxy, %v", err)
	}
}
