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
		"github.com/spf13", "github.com/prometheus", module + "providers/etcd", module + "providers/consul", module + "cmd", module + "config", module + "agent",
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

// What speaks gRPC is a package of its own: all else that a node has does without.
func TestOnlyCallsLinkGRPC(t *testing.T) {
	const module = "github.com/musterhq/muster/"
	linked := goList(t, module+"node", module+"node/history", module+"node/httpapi", module+"node/mastership", module+"node/upgrade", module+"node/cron", module+"providers/static")
	for _, dep := range linked {
		if dep == module+"node/call" || dep == "google.golang.org/grpc" {
			t.Errorf("a node without calls depends on %s", dep)
		}
	}
	if !slices.Contains(goList(t, module+"node/call"), "google.golang.org/grpc") {
		t.Error("node/call does not depend on gRPC: were the dependencies listed?")
	}
}

// A program that only elects links no node, no gossip and no provider.
func TestMastershipNeedsNoNode(t *testing.T) {
	const module = "github.com/musterhq/muster/"
	for _, dep := range goList(t, module+"node/mastership") {
		rest, ours := strings.CutPrefix(dep, module)
		switch {
		case strings.Contains(dep, "memberlist"), strings.Contains(dep, "hashicorp/raft"):
			t.Errorf("node/mastership depends on %s", dep)
		case ours && rest != "discovery/driver" && !strings.HasPrefix(rest, "internal/") && rest != "node/mastership":
			t.Errorf("node/mastership depends on %s", rest)
		}
	}
}

// Imports go one way: discovery knows no provider, and node imports none.
func TestImportsGoOneWay(t *testing.T) {
	const module = "github.com/musterhq/muster/"
	for importer, forbidden := range map[string][]string{
		"discovery":        {"providers/", "registrar", "node", "config", "agent", "cmd/"},
		"providers/static": {"providers/etcd", "providers/consul", "registrar", "node", "config", "agent", "cmd/"},
		"providers/etcd":   {"providers/static", "providers/consul", "registrar", "node", "config", "agent", "cmd/"},
		"providers/consul": {"providers/static", "providers/etcd", "registrar", "node", "config", "agent", "cmd/"},
		"registrar":        {"providers/", "node", "config", "agent", "cmd/"},
		"node":             {"providers/", "cmd/", "registrar/docker", "config", "agent"},
		"node/httpapi":     {"providers/", "cmd/", "registrar/docker", "config", "agent"},
		"config":           {"providers/", "cmd/", "registrar/docker", "node", "agent"},
		"agent":            {"providers/", "cmd/"},
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

// The SPI is all that a provider must know, and costs nothing to import.
func TestDriverDependsOnTheStandardLibraryAlone(t *testing.T) {
	const spi = "github.com/musterhq/muster/discovery/driver"
	deps := goList(t, spi)
	for _, dep := range deps {
		if first, _, _ := strings.Cut(dep, "/"); strings.Contains(first, ".") && dep != spi {
			t.Errorf("discovery/driver depends on %s", dep)
		}
	}
	if !slices.Contains(deps, spi) || !slices.Contains(deps, "context") {
		t.Errorf("were the dependencies listed? %v", deps)
	}
}

// A program that reads a registrar's configuration links no node.
func TestConfigDependsOnNoMemberlist(t *testing.T) {
	if deps := goList(t, "github.com/musterhq/muster/config"); slices.Contains(deps, "github.com/hashicorp/memberlist") {
		t.Error("config depends on memberlist")
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
