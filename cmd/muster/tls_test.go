//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/musterhq/muster/node/httpapi"
)

// Agents with certificates of one authority form a cluster and fail over. Whoever
// comes without, or with that of another authority, stays outside, and is counted.
func TestTLS(t *testing.T) {
	c := emptyCluster(t)
	addrs := testAddrs(t, 12)
	peers := addrs[:3]
	ca, otherCA := newCommandCA(t), newCommandCA(t)
	prepare := func(i int, name string, trusted, issuer commandCA) *agentProcess {
		config := staticProvider(peers)
		if trusted != "" {
			cert, key := issuer.issue(t, name, "--host", "127.0.0.1")
			config["tls"] = map[string]any{"ca_file": trusted.file(), "cert_file": cert, "key_file": key}
		}
		return c.add(name, addrs[i], addrs[6+i], config)
	}
	for i := range peers {
		prepare(i, fmt.Sprintf("node-%d", i+1), ca, ca)
	}
	members := c.agents[:3:3]
	c.start(members...)
	first := c.waitMaster(0, 3, members...)

	strangers := []*agentProcess{
		prepare(3, "plain", "", ""),
		prepare(4, "of-another-ca", otherCA, otherCA),
		prepare(5, "forged", ca, otherCA), // trusts ours, and is not trusted
	}
	c.start(strangers...)
	// More than once, so that they have tried all ways in.
	for _, agent := range members {
		for _, reason := range []string{"tls_missing", "our_certificate_refused", "bad_certificate"} {
			c.waitMetric(agent, fmt.Sprintf("muster_link_rejected_total{reason=%q}", reason), 2)
		}
	}

	victim, others := c.split(first)
	c.kill(victim)
	survivors := others[:2] // the strangers come after them
	c.waitMaster(first.Term, 2, survivors...)
	c.start(victim)
	c.waitMaster(first.Term, 3, members...)

	for _, agent := range strangers {
		s, err := c.status(t.Context(), agent)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.View.Members) != 1 || len(s.View.Departed) != 0 || s.Ready || s.Master != nil || s.View.ClusterID != "" {
			t.Errorf("%s is not alone: %+v", agent.name, s)
		}
	}
	c.stopAll()
	c.checkHistory(t, 2)
}

// commandCA is the directory of an authority that muster tls has made.
type commandCA string

func newCommandCA(t testing.TB) commandCA {
	t.Helper()
	dir := t.TempDir()
	if status, _, stderr := execute(t, "tls", "ca", "--dir", dir); status != statusDone {
		t.Fatal(stderr)
	}
	return commandCA(dir)
}

func (ca commandCA) file() string { return filepath.Join(string(ca), "ca.pem") }

// issue makes a certificate with muster tls cert and the flags.
func (ca commandCA) issue(t testing.TB, name string, flags ...string) (certFile, keyFile string) {
	t.Helper()
	args := append([]string{"tls", "cert", name, "--dir", string(ca)}, flags...)
	if status, _, stderr := execute(t, args...); status != statusDone {
		t.Fatal(stderr)
	}
	return filepath.Join(string(ca), name+".pem"), filepath.Join(string(ca), name+"-key.pem")
}

// waitMetric waits until a metric of the agent, named with its labels, has at
// least this value.
func (c *testCluster) waitMetric(agent *agentProcess, name string, atLeast float64) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s of %s is %v", name, agent.name, atLeast), func(ctx context.Context) bool {
		value, err := agent.metric(ctx, name)
		return err == nil && value >= atLeast
	})
}

// metric reads one metric of the agent, named with its labels; what is not there
// counts as 0.
func (p *agentProcess) metric(ctx context.Context, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.httpAddr+httpapi.PathMetrics, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, lines.Err()
}
