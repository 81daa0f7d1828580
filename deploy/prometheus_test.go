package deploy_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/testing/testserver"
)

const rulesFile = "prometheus/muster.yaml"

// alertRule is one rule of Prometheus.
type alertRule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func readRules(t *testing.T) (rules []alertRule) {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []alertRule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// Prometheus' own tool accepts the rules, and each fires when it should and not when it should
// not: prometheus/muster.test.yaml.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", rulesFile},
		{"test", "rules", "prometheus/muster.test.yaml"},
	} {
		if out, err := testserver.Promtool(t, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Each alert says what it means, how bad it is and where to read on, is tested, and is in the
// table of docs/metrics.md.
func TestAlertRulesAreComplete(t *testing.T) {
	tests, err := os.ReadFile("prometheus/muster.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	const runbook = "https://github.com/musterhq/muster/blob/main/docs/troubleshooting.md#"
	anchors := headings(t, "../docs/troubleshooting.md")
	var rows []string
	for _, rule := range readRules(t) {
		severity := rule.Labels["severity"]
		if severity != "page" && severity != "ticket" {
			t.Errorf("%s has severity %q, want page or ticket", rule.Alert, severity)
		}
		for _, name := range []string{"summary", "description"} {
			if !strings.HasSuffix(rule.Annotations[name], ".") {
				t.Errorf("%s has the %s %q, want a sentence", rule.Alert, name, rule.Annotations[name])
			}
		}
		anchor, found := strings.CutPrefix(rule.Annotations["runbook_url"], runbook)
		if !found || !slices.Contains(anchors, anchor) {
			t.Errorf("%s refers to %q, want one of %s and %v", rule.Alert, rule.Annotations["runbook_url"], runbook, anchors)
		}
		fires := fmt.Sprintf(`{labels: 'ALERTS{alertname="%s",alertstate="firing",severity="%s",`, rule.Alert, severity)
		if !strings.Contains(string(tests), fires) {
			t.Errorf("no test has %s firing", rule.Alert)
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s |", rule.Alert, severity))
	}
	if diff := cmp.Diff(rows, regexp.MustCompile("(?m)^\\| `Muster[A-Za-z]+` \\| [a-z]+ \\|").FindAllString(string(page), -1)); diff != "" || len(rows) < 20 {
		t.Errorf("docs/metrics.md has other alerts than the %d rules: -rules +page:\n%s", len(rows), diff)
	}
}

// headings are the anchors that a page has, as GitHub makes them.
func headings(t *testing.T, path string) (anchors []string) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(page), -1) {
		kept := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors = append(anchors, strings.ReplaceAll(kept, " ", "-"))
	}
	return anchors
}
