package deploy_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// The dashboard can be imported, and says what it shows. That its queries have answers is held
// by TestMonitoring of cmd/muster.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("grafana/muster.json")
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ Type, UID string }
	type position struct{ H, W, X, Y int }
	var d struct {
		ID            any
		UID, Title    string
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Label, Type string
				Datasource        source
			}
		}
		Panels []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  position
			Datasource               source
			FieldConfig              struct{ Defaults struct{ Unit string } }
			Targets                  []struct {
				RefID, Expr, LegendFormat string
				Datasource                source
			}
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID != "muster" || d.Title == "" || d.ID != nil || d.SchemaVersion < 36 {
		t.Errorf("uid %q, title %q, id %v, schema %d: want muster, a title, no id and 36 or later", d.UID, d.Title, d.ID, d.SchemaVersion)
	}
	variable := source{"prometheus", "${datasource}"}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
		if v.Label == "" {
			t.Errorf("the variable %s has no label", v.Name)
		}
		if v.Type == "query" && v.Datasource != variable {
			t.Errorf("the variable %s asks %v", v.Name, v.Datasource)
		}
		if v.Name != "datasource" && !strings.Contains(string(text), `"$`+v.Name) && !strings.Contains(string(text), `\"$`+v.Name+`\"`) {
			t.Errorf("no query uses $%s", v.Name)
		}
	}
	if want := []string{"datasource", "cluster", "node", "registrar"}; !slices.Equal(names, want) {
		t.Errorf("the variables are %v, want %v", names, want)
	}

	ids, titles := make(map[int]bool), make(map[string]bool)
	var taken []position
	for _, p := range d.Panels {
		g := p.GridPos
		if p.ID <= 0 || ids[p.ID] || p.Title == "" || titles[p.Title] {
			t.Errorf("the panel %d, %q: its id or its title is missing or taken", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		if g.W <= 0 || g.H <= 0 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("the panel %q is at %+v, beside the grid", p.Title, g)
		}
		for _, o := range taken {
			if g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H {
				t.Errorf("the panel %q is at %+v, where another one is: %+v", p.Title, g, o)
			}
		}
		taken = append(taken, g)
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource != variable || len(p.Targets) == 0 {
			t.Errorf("the panel %q has the description %q, the unit %q, the source %v and %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, p.Datasource, len(p.Targets))
		}
		refs := make(map[string]bool)
		for _, target := range p.Targets {
			if target.Expr == "" || target.LegendFormat == "" || target.Datasource != variable || refs[target.RefID] {
				t.Errorf("the panel %q has the query %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
	}
	if len(titles) < 40 {
		t.Errorf("there are %d panels", len(titles))
	}
}
