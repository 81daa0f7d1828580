package provider

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/snapshot"
)

// The suite runs what a provider that only lists can do, and skips the rest with the reason.
func TestConformance(t *testing.T) {
	discoverytest.RunDiscovery(t, func(t testing.TB) discoverytest.Harness {
		path := filepath.Join(t.TempDir(), "instances.json")
		write(t, path, "[]")
		return discoverytest.Harness{
			Open: func(t testing.TB) driver.Driver { return open(t, path) },
			Seed: func(t testing.TB, service string, instances []driver.Instance) []driver.Instance {
				var shown []driver.Instance
				all := []map[string]string{}
				for _, i := range instances {
					shown = append(shown, driver.Instance{Service: service, InstanceID: i.InstanceID, Addr: i.Addr})
					all = append(all, map[string]string{"service": service, "instance_id": i.InstanceID, "addr": i.Addr})
				}
				text, err := json.Marshal(all)
				if err != nil {
					t.Fatal(err)
				}
				write(t, path, string(text))
				return shown
			},
			AddGarbage: func(t testing.TB, service string) {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				garbage := []byte(`{"service": "` + service + `", "addr": "nowhere"}]`)
				if !bytes.Equal(text, []byte("[]")) {
					garbage = append([]byte(","), garbage...)
				}
				write(t, path, string(append(bytes.TrimSuffix(text, []byte("]")), garbage...)))
			},
			Stop:  func(t testing.TB) { rename(t, path, path+".away") },
			Start: func(t testing.TB) { rename(t, path+".away", path) },
		}
	})
}

// As in a program: by its name and its section.
func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "instances.json")
	write(t, path, `[{"service": "orders", "instance_id": "a", "addr": "10.0.0.5:7946"}]`)
	registry, err := discovery.Open("jsonfile", map[string]any{"path": path}, discovery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	s, err := registry.List(t.Context(), discovery.Query{Service: "orders"})
	if err != nil || len(snapshot.Instances(s)) != 1 || snapshot.Instances(s)[0].Addr != "10.0.0.5:7946" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := discovery.Open("jsonfile", nil, discovery.Options{}); err == nil {
		t.Error("a file without a name is opened")
	}
}

func open(t testing.TB, path string) driver.Driver {
	t.Helper()
	p, err := driver.Lookup("jsonfile")
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Open(&Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// write replaces the file as a whole, so that no half of it is ever read.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rename(t, path+".new", path)
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
