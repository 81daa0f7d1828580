//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/node/httpapi"
)

// Agents with certificates of one authority form a cluster and fail over. A node that
// comes without, or with that of another authority, stays outside, and is counted.
func TestTLS(t *testing.T) {
	t.Parallel()
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
	c.stopAndCheck(t, 2)
}

// The steps of docs/security.md, on agents that run: to another authority and back to
// being able to restart, with no member lost and no master changed. The connections of
// the voters stand all the while.
func TestAuthorityIsChanged(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	addrs := testAddrs(t, 6)
	old, next := newCommandCA(t), newCommandCA(t)
	dir := t.TempDir()
	in := func(name, file string) string { return filepath.Join(dir, name+"-"+file) }
	put := func(path string, from ...string) {
		t.Helper()
		var all []byte
		for _, file := range from {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text...)
		}
		if err := os.WriteFile(path, all, 0o600); err != nil { // in place, and not as a whole
			t.Fatal(err)
		}
	}
	certify := func(name string, ca commandCA) {
		t.Helper()
		cert, key := ca.issue(t, name, "--host", "127.0.0.1")
		put(in(name, "cert.pem"), cert)
		put(in(name, "key.pem"), key)
	}
	for i := range 3 {
		name := fmt.Sprintf("node-%d", i+1)
		put(in(name, "ca.pem"), old.file())
		certify(name, old)
		config := staticProvider(addrs[:3])
		config["tls"] = map[string]any{"ca_file": in(name, "ca.pem"), "cert_file": in(name, "cert.pem"), "key_file": in(name, "key.pem")}
		c.add(name, addrs[i], addrs[3+i], config)
	}
	c.start(c.agents...)
	first := c.waitMaster(0, 3, c.agents...)

	step := func(what string, change func(name string)) {
		t.Helper()
		before := make([]float64, len(c.agents))
		for i, agent := range c.agents {
			before[i], _ = agent.metric(t.Context(), `muster_certificate_reloads_total{use="nodes"}`)
			change(agent.name)
		}
		for i, agent := range c.agents {
			c.waitMetric(agent, `muster_certificate_reloads_total{use="nodes"}`, before[i]+1)
			c.eventually(agent.name+" "+what, func(ctx context.Context) bool {
				s, err := c.status(ctx, agent)
				return err == nil && len(s.Certificates) == 1 && s.Certificates[0].Error == ""
			})
		}
		if m := c.waitMaster(first.Term-1, 3, c.agents...); m.Term != first.Term {
			t.Errorf("%s: term %d, and it was %d", what, m.Term, first.Term)
		}
	}
	step("trusts both", func(name string) { put(in(name, "ca.pem"), old.file(), next.file()) })
	step("shows the new certificate", func(name string) { certify(name, next) })
	step("trusts the new authority alone", func(name string) { put(in(name, "ca.pem"), next.file()) })
	for _, agent := range c.agents {
		if s, err := c.status(t.Context(), agent); err != nil || len(s.View.Departed) != 0 {
			t.Errorf("%s has lost a member: %+v, %v", agent.name, s.View.Departed, err)
		}
	}

	// A node that is started again makes all its connections with the new authority.
	_, others := c.split(first)
	c.kill(others[0])
	c.start(others[0])
	c.waitMaster(first.Term-1, 3, c.agents...)
	c.stopAndCheck(t, 1)
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

// The certificate by which an agent is known to a provider is followed like its others,
// and reported.
func TestCertificateForAProvider(t *testing.T) {
	t.Parallel()
	ca := testserver.NewCA(t)
	server := testserver.StartEtcd(t, testserver.WithTLS(ca))
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put := func(path, from string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	issued, issuedKey := ca.Issue(t, "first", testserver.PKCS8)
	put(cert, issued)
	put(key, issuedKey)
	c := emptyCluster(t)
	addrs := testAddrs(t, 2)
	agent := c.add("node-1", addrs[0], addrs[1], map[string]any{"provider": map[string]any{"etcd": map[string]any{
		"endpoints": []string{server.Endpoint()},
		"tls":       map[string]any{"ca_file": ca.CAFile, "cert_file": cert, "key_file": key},
	}}})
	c.start(agent)
	first := c.waitMaster(0, 1, agent)

	next, nextKey := ca.Issue(t, "second", testserver.PKCS8)
	put(cert, next) // whose key is not there yet
	c.waitMetric(agent, `muster_certificate_reload_failing{use="etcd"}`, 1)
	s, err := c.status(t.Context(), agent)
	if err != nil || len(s.Certificates) != 1 || s.Certificates[0].Use != "etcd" || !strings.Contains(s.Certificates[0].Error, "tls.key_file") || s.Certificates[0].Expiry.IsZero() {
		t.Errorf("certificates %+v, %v", s.Certificates, err)
	}
	put(key, nextKey)
	c.waitMetric(agent, `muster_certificate_reloads_total{use="etcd"}`, 1)
	if m := c.waitMaster(first.Term-1, 1, agent); m.Term != first.Term {
		t.Errorf("term %d, and it was %d", m.Term, first.Term)
	}
	c.stopAll()
	log, err := os.ReadFile(agent.logFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, reported := range []string{"certificates not reloaded", "certificates reloaded"} {
		if !strings.Contains(string(log), reported) {
			t.Errorf("the log does not say %q:\n%s", reported, log)
		}
	}
}
