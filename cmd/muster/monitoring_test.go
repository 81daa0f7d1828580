//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/testing/fakeengine"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

const deployDir = "../../deploy"

// The dashboard and the alert rules ask a real Prometheus for what real agents and a registrar
// show: each query of the dashboard has an answer with the labels of its legend, each metric and
// label of a rule exists, and no alert is left while all is well.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c := emptyCluster(t)
	addrs, ca := testAddrs(t, 6), newCommandCA(t)
	for i, addr := range addrs[:3] {
		name := fmt.Sprintf("node-%d", i+1)
		cert, key := ca.issue(t, name, "--host", "127.0.0.1")
		c.add(name, addr, addrs[3+i], map[string]any{
			"provider": map[string]any{
				"static": map[string]any{"peers": addrs[:3]},
				"etcd":   map[string]any{"endpoints": []string{etcd.Endpoint()}},
			},
			"mastership": map[string]any{"authority": "static", "ttl": "6s"},
			"jobs":       []any{map[string]any{"name": "report", "schedule": "@every 10s", "command": []any{"true"}}},
			"tls":        map[string]any{"ca_file": ca.file(), "cert_file": cert, "key_file": key},
		})
	}
	c.start(c.agents...)
	c.waitMaster(0, 3, c.agents...)
	registrar := startRegistrarProcess(t, fmt.Sprintf(`
provider: {etcd: {endpoints: [%q]}}
docker: {host: "unix://%s"}
registrar: {hostname: h1, ip: 10.0.0.5}
services: [{name: db, id: main, address: ":5432"}]
`, etcd.Endpoint(), emptyEngine(t)))
	registrar.ready()

	targets, err := json.Marshal(append(addrs[3:], registrar.addr))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := filepath.Abs(filepath.Join(deployDir, "prometheus/muster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p := prometheus{t, testserver.StartPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 250ms}
rule_files: [%q]
scrape_configs:
  - job_name: muster
    static_configs: [{targets: %s}]
`, rules, targets))}

	// What is only counted once it has happened: a step is done, and a stranger knocks at the one
	// port.
	if status, _, stderr := executeProcess(t, "upgrade", "run", "--agent", c.agents[0].httpAddr, "--lock-file", c.agents[0].config+".step.lock", "schema", "1", "--", "true"); status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	stranger, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}

	queries := dashboardQueries(t)
	for _, q := range queries {
		p.checkAnswer(q)
	}
	exprs := ruleExprs(t)
	for _, expr := range exprs {
		p.checkNames(expr)
	}
	if len(queries) < 40 || len(exprs) < 20 {
		t.Errorf("%d queries and %d rules were found", len(queries), len(exprs))
	}
	p.checkRules(len(exprs))
	// Others than those that a loaded machine brings about.
	wait.NoError(t, func() error {
		if alerts := p.query(`ALERTS{alertname!~"MusterRenewals.*|MusterNodeSlow|MusterMasterFlaps|MusterSessionsLost"}`); len(alerts) > 0 {
			return fmt.Errorf("all is well, and there are the alerts %v", alerts)
		}
		return nil
	})

	for _, agent := range c.agents[1:] {
		c.kill(agent)
	}
	wait.NoError(t, func() error {
		if len(p.query(`ALERTS{alertname="MusterNoMaster",cluster="demo"}`)) == 0 {
			return errors.New("no alert while two of three nodes are dead")
		}
		return nil
	})
}

// emptyEngine is the socket of a container engine that runs nothing.
func emptyEngine(t *testing.T) string {
	return fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{
		"/v1.41/containers/json": fakeengine.Answer(http.StatusOK, "[]"),
		"/v1.41/events": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	}))
}

// dashboardQuery is a query of a panel, and what its answer is labelled with.
type dashboardQuery struct{ panel, expr, legend string }

func dashboardQueries(t *testing.T) (queries []dashboardQuery) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, "grafana/muster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	// What Grafana replaces. A window of this length has samples on a loaded machine, too.
	variables := strings.NewReplacer("$cluster", "demo", "$node", ".+", "$registrar", ".+",
		"$__rate_interval", "30s", "$__range_s", "30", "$__range", "30s")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, dashboardQuery{panel.Title, variables.Replace(target.Expr), target.LegendFormat})
		}
	}
	return queries
}

func ruleExprs(t *testing.T) (exprs []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, "prometheus/muster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []struct{ Expr string } }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			exprs = append(exprs, rule.Expr)
		}
	}
	return exprs
}

// prometheus is asked by the tests.
type prometheus struct {
	*testing.T
	server *testserver.Prometheus
}

// query returns the labels of the series of an answer.
func (p prometheus) query(expr string) (labels []map[string]string) {
	p.Helper()
	var answer struct {
		Result []struct{ Metric map[string]string }
	}
	if err := p.server.Get("query", url.Values{"query": {expr}}, &answer); err != nil {
		p.Fatalf("%s: %v", expr, err)
	}
	for _, series := range answer.Result {
		labels = append(labels, series.Metric)
	}
	return labels
}

// checkAnswer waits until the query has an answer, and checks its labels. A query that filters
// by a value is asked without the filter.
func (p prometheus) checkAnswer(q dashboardQuery) {
	p.Helper()
	expr := strings.ReplaceAll(q.expr, " == 1", " == bool 1")
	var answer []map[string]string
	wait.For(p, fmt.Sprintf("an answer for the panel %q: %s", q.panel, expr), func() bool {
		answer = p.query(expr)
		return len(answer) > 0
	})
	for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(q.legend, -1) {
		for _, series := range answer {
			if _, ok := series[label[1]]; !ok {
				p.Errorf("the panel %q has no label %s: %s", q.panel, label[1], q.expr)
				break
			}
		}
	}
	p.checkNames(q.expr)
}

// checkNames has Prometheus parse the query, and checks that each metric that it selects exists
// and has the labels that it is selected, grouped and joined by.
func (p prometheus) checkNames(expr string) {
	p.Helper()
	var tree any
	if err := p.server.Get("parse_query", url.Values{"query": {expr}}, &tree); err != nil {
		p.Fatalf("%s: %v", expr, err)
	}
	known, wanted := make(map[string]bool), make(map[string]bool)
	want := func(labels any) {
		list, _ := labels.([]any)
		for _, label := range list {
			wanted[label.(string)] = true
		}
	}
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				walk(child)
			}
		case map[string]any:
			if matchers, ok := node["matchers"].([]any); ok {
				p.checkSelector(expr, node["name"].(string), matchers, known)
			}
			want(node["grouping"])
			if matching, ok := node["matching"].(map[string]any); ok {
				want(matching["labels"])
				want(matching["include"])
			}
			for _, child := range node {
				walk(child)
			}
		}
	}
	walk(tree)
	for label := range wanted {
		if !known[label] {
			p.Errorf("no metric has the label %s, but %v: %s", label, slices.Sorted(maps.Keys(known)), expr)
		}
	}
}

// checkSelector checks that there are series of a name that have the labels of the matchers, and
// adds their labels to known.
func (p prometheus) checkSelector(expr, name string, matchers []any, known map[string]bool) {
	p.Helper()
	var series []map[string]string
	wait.For(p, fmt.Sprintf("the metric %s of %s", name, expr), func() bool {
		series = p.query(name)
		return len(series) > 0
	})
	own := make(map[string]bool)
	for _, labels := range series {
		for label := range labels {
			own[label], known[label] = true, true
		}
	}
	for _, m := range matchers {
		if label := m.(map[string]any)["name"].(string); !own[label] {
			p.Errorf("%s has no label %s: %s", name, label, expr)
		}
	}
}

// checkRules waits until every rule has been evaluated, and none has failed.
func (p prometheus) checkRules(want int) {
	p.Helper()
	wait.NoError(p, func() error {
		var answer struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		if err := p.server.Get("rules", nil, &answer); err != nil {
			return err
		}
		got := 0
		for _, group := range answer.Groups {
			for _, rule := range group.Rules {
				if rule.Health != "ok" {
					return fmt.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
				}
				got++
			}
		}
		if got != want {
			return fmt.Errorf("%d rules are evaluated, want %d", got, want)
		}
		return nil
	})
}
