//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/httpapi"
)

// startLocalProgram serves gRPC beside the agents, without a node.
func startLocalProgram(t *testing.T, name string) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	call.Handle(server, "test.Who", func(ctx context.Context, greeting string) (map[string]string, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return map[string]string{
			"program": name, "greeting": greeting, "caller": strings.Join(md[call.ForwardNode], ","), "term": strings.Join(md[call.ForwardTerm], ","),
		}, nil
	})
	call.Handle(server, "test.Fail", func(context.Context, any) (any, error) { return nil, status.Error(codes.NotFound, "no such order") })
	call.Handle(server, "test.Hang", func(ctx context.Context, _ any) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	stop = sync.OnceFunc(func() {
		server.Stop()
		serving.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// callCluster starts two agents with mutual TLS, and a program beside each, whose service test.Who
// is that of the master.
func callCluster(t *testing.T) (c *testCluster, stop map[string]func()) {
	t.Helper()
	c, stop = emptyCluster(t), make(map[string]func())
	addrs := testAddrs(t, 4)
	ca := newCommandCA(t)
	for i, name := range []string{"node-1", "node-2"} {
		var addr string
		addr, stop[name] = startLocalProgram(t, name)
		cert, key := ca.issue(t, name, "--host", "127.0.0.1")
		config := patientProvider(addrs[:2])
		config["tls"] = map[string]any{"ca_file": ca.file(), "cert_file": cert, "key_file": key}
		config["calls"] = []any{
			map[string]any{"service": "test.Who", "to": addr, "where": "master"},
			map[string]any{"service": "test.Fail", "to": addr}, map[string]any{"service": "test.Hang", "to": addr},
		}
		c.add(name, addrs[i], addrs[2+i], config)
	}
	c.start(c.agents...)
	return c, stop
}

// Programs beside the agents, of which nothing is published, are called by members and by people.
func TestCallsOfAgents(t *testing.T) {
	t.Parallel()
	c, stop := callCluster(t)
	master := c.waitMaster(0, 2, c.agents...)
	of, others := c.split(master)
	other := others[0]

	for _, a := range c.agents {
		status, stdout, stderr := execute(t, "call", "test.Who", `"hello"`, "--agent", a.httpAddr)
		var got map[string]string
		if err := json.Unmarshal([]byte(stdout), &got); status != statusDone || err != nil || got["program"] != master.NodeID ||
			got["greeting"] != "hello" || got["caller"] != a.name || got["term"] == "" {
			t.Errorf("by %s: status %d, %s%s", a.name, status, stdout, stderr)
		}
	}
	for _, v := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"test.Fail", "--to", other.name}, statusFailed, "muster: call test.Fail at " + other.name + ": the handler failed: no such order (NotFound)"},
		{[]string{"test.Hang", "--timeout", "300ms"}, statusUnknown, "it may have run"},
		{[]string{"test.Who", "--to", other.name}, statusFailed, "it has not run"},
		{[]string{"test.None", "--to", of.name}, statusFailed, "no handler for this method; it has not run"},
		{[]string{"test.Who", "--to", "nobody"}, statusFailed, "it has not run"},
		{[]string{"test.Who", "{"}, statusUsage, `JSON: "{": not JSON; quote it`},
		{[]string{"test.v1.Who/Who"}, statusUsage, "not the name of a handler"},
		{[]string{"test.Who", "--timeout", "0s"}, statusUsage, `--timeout: "0s"`},
		{[]string{"test.Who", "--to", ""}, statusUsage, `--to: ""`},
	} {
		status, stdout, stderr := execute(t, append([]string{"call", "--agent", other.httpAddr}, v.args...)...)
		if status != v.status || stdout != "" || !strings.Contains(stderr, v.want) {
			t.Errorf("%q: status %d, want %d with %q: %s%s", v.args, status, v.status, v.want, stdout, stderr)
		}
	}

	testForward(t, other, of.name)

	stop[of.name]()
	c.eventually("a program that has ended runs nothing", func(context.Context) bool { // its connection ends a moment later
		status, _, stderr := execute(t, "call", "test.Fail", "--to", of.name, "--agent", other.httpAddr)
		return status == statusFailed && strings.Contains(stderr, "the program that serves it does not answer") && strings.Contains(stderr, "it has not run")
	})
	code, stdout, stderr := execute(t, "call", "test.Fail", "--to", "all", "--agent", other.httpAddr)
	var replies []httpapi.CallReply
	if err := json.Unmarshal([]byte(stdout), &replies); err != nil || code != statusFailed || len(replies) != 2 {
		t.Fatalf("all: status %d, %s%s", code, stdout, stderr)
	}
	for _, r := range replies {
		want := httpapi.CallFailed
		if r.NodeID == of.name {
			want = httpapi.CallNotRun
		}
		if r.State != want || r.Error == "" || r.Code == "" {
			t.Errorf("all: %+v, want %s", r, want)
		}
	}

	code, stdout, stderr = execute(t, "doctor", "--all", "-c", other.config, "-o", "json")
	var found []memberFindings
	if err := json.Unmarshal([]byte(stdout), &found); err != nil || len(found) != 2 {
		t.Fatalf("doctor --all: status %d, %s%s", code, stdout, stderr)
	}
	for i, m := range found {
		if m.NodeID != c.agents[i].name || m.Error != "" || len(m.Findings) < 8 || !strings.Contains(m.Findings[0].Detail, "node "+m.NodeID) || m.Findings[0].Status != doctor.OK {
			t.Errorf("%+v", m)
		}
	}
	c.stopAndCheck(t, 1)
}

// testForward calls members by plain gRPC, through an agent.
func testForward(t *testing.T, by *agentProcess, master string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, written := io.Pipe()
	var errs bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"forward", "call", "127.0.0.1:0", "master", "--agent", by.httpAddr}, written, &errs)
		written.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cancel()
		t.Fatalf("%v, status %d: %s", err, <-ended, errs.String())
	}
	addr := strings.Fields(line)[2]
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := call.Invoke[map[string]string](t.Context(), conn, "test.Who", "plain")
	if err != nil || got["program"] != master || got["greeting"] != "plain" || got["caller"] != by.name {
		t.Errorf("by plain gRPC: %v, %v", got, err)
	}
	var trailer metadata.MD
	_, err = call.Invoke[any](t.Context(), conn, "test.None", 1, grpc.Trailer(&trailer))
	if status.Code(err) != codes.Unimplemented || strings.Join(trailer[call.ForwardMayHaveRun], "") != "false" {
		t.Errorf("no handler, by plain gRPC: %v, trailer %v", err, trailer)
	}
	cancel()
	if s := <-ended; s != statusDone || errs.String() != "" {
		t.Errorf("status %d: %s", s, errs.String())
	}
	if _, err := call.Invoke[any](t.Context(), conn, "test.Who", "late"); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
	for _, v := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"127.0.0.1:0", "nobody"}, statusFailed, `NODE: "nobody": no member of the cluster; write master, or one of node-1, node-2`},
		{[]string{"127.0.0.1:0", "all"}, statusUsage, `NODE: "all": not what can be called`},
		{[]string{"0.0.0.0:0", "master"}, statusUsage, `LISTEN: "0.0.0.0:0": reaches beyond this host`},
		{[]string{":0", "master"}, statusUsage, "reaches beyond this host"},
		{[]string{"9000", "master"}, statusUsage, `LISTEN: "9000": not an address to listen on; write HOST:PORT`},
		{[]string{by.httpAddr, "master"}, statusFailed, "address already in use; name an address of this host and a free port"},
	} {
		status, stdout, stderr := execute(t, append([]string{"forward", "call", "--agent", by.httpAddr}, v.args...)...)
		if status != v.status || stdout != "" || !strings.Contains(stderr, v.want) {
			t.Errorf("%q: status %d, want %d with %q: %s%s", v.args, status, v.status, v.want, stdout, stderr)
		}
	}
}

// What members ask of each other wants mutual TLS.
func TestDoctorAllWithoutTLS(t *testing.T) {
	status, stdout, stderr := execute(t, "doctor", "--all", "-c", writeFile(t, "muster.yaml", goodFile))
	if status != statusFailed || stdout != "" || !strings.Contains(stderr, "--all: without mutual TLS between the nodes anyone could ask for this; configure tls.ca_file") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	var out strings.Builder
	err := reportAll(&out, "table", 0, []memberFindings{
		{NodeID: "a", Findings: []doctor.Finding{{Check: "x", Status: doctor.Fail, Detail: "y", Hint: "z"}}},
		{NodeID: "b", Error: "gone"}, {NodeID: "c", Error: "no handler", NoAgent: true},
	})
	const want = "a\nfail  x  y\n         hint: z\n\nb\nfail  it has not been examined: gone\n\nc\nwarn  it is no agent, and has not been examined\n"
	if out.String() != want || err == nil || !strings.Contains(err.Error(), "1 of 1 checks failed, and 1 of 3 members were not examined") || !strings.HasSuffix(err.Error(), ": b") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}
