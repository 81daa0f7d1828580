package node_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Embedding a node with the static provider must not cost a client of another
// provider, nor what only the command needs.
func TestStaticNodeDependsOnNoOtherProvider(t *testing.T) {
	const module = "github.com/musterhq/muster/"
	deps := goList(t, module+"node", module+"providers/static")
	for _, forbidden := range []string{
		"go.etcd.io/etcd", "github.com/hashicorp/consul", "github.com/hashicorp/serf", "github.com/docker", "github.com/moby", "google.golang.org/grpc",
		"github.com/spf13", "github.com/prometheus", module + "providers/etcd", module + "providers/consul", module + "cmd", module + "node/config",
	} {
		for _, dep := range deps {
			if dep == forbidden || strings.HasPrefix(dep, strings.TrimSuffix(forbidden, "/")+"/") {
				t.Errorf("./node with ./providers/static depends on %s", dep)
			}
		}
	}
	// The list is no empty one: it has what it must have.
	for _, wanted := range []string{"github.com/hashicorp/memberlist", "github.com/hashicorp/raft"} {
		if !slices.Contains(deps, wanted) {
			t.Errorf("%s is missing from the dependencies: were they listed?", wanted)
		}
	}
}

// Imports go one way: discovery knows no provider, and node imports none.
func TestImportsGoOneWay(t *testing.T) {
	const module = "github.com/musterhq/muster/"
	for importer, forbidden := range map[string][]string{
		"discovery":        {"providers/", "registrar", "node", "cmd/"},
		"providers/static": {"providers/etcd", "providers/consul", "registrar", "node", "cmd/"},
		"providers/etcd":   {"providers/static", "providers/consul", "registrar", "node", "cmd/"},
		"providers/consul": {"providers/static", "providers/etcd", "registrar", "node", "cmd/"},
		"registrar":        {"providers/", "node", "cmd/"},
		"node":             {"providers/", "cmd/", "registrar/docker"},
		"node/config":      {"providers/", "cmd/", "registrar/docker"},
	} {
		for _, dep := range goList(t, module+importer) {
			for _, f := range forbidden {
				rest, ours := strings.CutPrefix(dep, module)
				if ours && strings.HasPrefix(rest, f) && !strings.HasPrefix(rest, importer) {
					t.Errorf("%s depends on %s", importer, rest)
				}
			}
		}
	}
}

func goList(t *testing.T, packages ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, packages...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}
