package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// engine answers as a container engine does. A real one would also show what other tests run.
type engine struct {
	mu         sync.Mutex
	containers map[string]map[string]any // what inspect says, by id
	events     map[chan string]bool
}

// serve returns where it is.
func (e *engine) serve(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
	mux.HandleFunc("GET /v1.41/info", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]any{"Name": "host-1"}) })
	mux.HandleFunc("GET /v1.41/containers/json", func(w http.ResponseWriter, _ *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		list := []map[string]any{}
		for id := range e.containers {
			list = append(list, map[string]any{"Id": id, "State": "running"})
		}
		answer(w, list)
	})
	mux.HandleFunc("GET /v1.41/containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		c, ok := e.containers[r.PathValue("id")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			c = map[string]any{"message": "no such container"}
		}
		answer(w, c)
	})
	mux.HandleFunc("GET /v1.41/events", func(w http.ResponseWriter, r *http.Request) {
		events := make(chan string, 16)
		e.mu.Lock()
		e.events[events] = true
		e.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case event := <-events:
				fmt.Fprintln(w, event)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	// The path of a socket may be no longer than a hundred bytes.
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewUnstartedServer(mux)
	server.Listener.Close()
	server.Listener, server.Config.BaseContext = listener, func(net.Listener) context.Context { return ctx }
	server.Start()
	t.Cleanup(func() { cancel(); server.CloseClientConnections(); server.Close() })
	return "unix://" + listener.Addr().String()
}

// run starts a container whose port 80 is published at a port of the host; 0: it is not published.
func (e *engine) run(name string, port int, labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := fmt.Sprintf("%064x", len(e.containers)+1)
	ports := map[string]any{"80/tcp": nil}
	if port != 0 {
		ports["80/tcp"] = []map[string]string{{"HostIp": "0.0.0.0", "HostPort": fmt.Sprint(port)}}
	}
	e.containers[id] = map[string]any{
		"Id": id, "Name": "/" + name, "State": map[string]any{"Status": "running", "Running": true},
		"Config":          map[string]any{"Image": "example/" + name, "Hostname": id[:12], "Labels": labels, "ExposedPorts": map[string]any{"80/tcp": map[string]any{}}},
		"HostConfig":      map[string]any{"NetworkMode": "bridge"},
		"NetworkSettings": map[string]any{"Ports": ports, "Networks": map[string]any{"bridge": map[string]any{"IPAddress": "172.17.0.2"}}},
	}
	for events := range e.events {
		events <- fmt.Sprintf(`{"Type":"container","Action":"start","Actor":{"ID":"%s","Attributes":{"name":"%s"}},"time":1,"timeNano":1}`, id, name)
	}
}

// registrarWith starts a registrar of an engine, or of the usual one, with an etcd, and waits until
// it is ready. Rules are keys of the section registrar.
func registrarWith(t *testing.T, engine string, rules map[string]any) *agent {
	t.Helper()
	addrs := freeAddrs(t, 3)
	etcd := built(t, "etcd", filepath.Join("..", "etcd"), "go.etcd.io/etcd/server/v3")
	client, peer := "http://"+addrs[0], "http://"+addrs[1]
	run(t, etcd, "--data-dir", t.TempDir(), "--log-level", "error", "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	section := map[string]any{"hostname": "host-1"}
	maps.Copy(section, rules)
	c := map[string]any{
		"detect": map[string]any{"host_ip": "10.0.0.5"}, "registrar": section,
		"provider": map[string]any{"etcd": map[string]any{"endpoints": []string{client}}}, "http": map[string]any{"addr": addrs[2]},
	}
	if engine != "" {
		c["docker"] = map[string]any{"host": engine}
	}
	a := &agent{run(t, muster(t), "registrar", "-c", configured(t, c)), "host-1", "http://" + addrs[2] + "/"}
	ready(t, a.url)
	return a
}

// The page of a registrar shows containers, what is registered of them, where and why, and
// follows them.
func TestRegistrar(t *testing.T) {
	b := open(t)
	e := &engine{containers: make(map[string]map[string]any), events: make(map[chan string]bool)}
	e.run("web", 8000, map[string]string{"SERVICE_NAME": "web", "SERVICE_TAGS": "blue"})
	e.run("orders-db", 0, nil)
	e.run("metrics", 9100, map[string]string{"SERVICE_IGNORE": "true"})

	registrar := registrarWith(t, e.serve(t), nil)
	url := registrar.url
	b.visit(url)
	b.shows("#live", "Live, as of")
	b.shows("#headline", "All that runs is registered")
	b.shows("#host", "10.0.0.5")
	row := `[...document.querySelectorAll("#containers tr")].find((row) => row.textContent.includes(%q))?.textContent.includes(%q)`
	b.eventually("web is registered", fmt.Sprintf(row, "10.0.0.5:8000", "etcd"))
	b.shows("#containers", "blue")
	b.shows("#containers", "SERVICE_IGNORE")
	value[bool](b, "window.same = true")
	b.picture("registrar.png", 1120, 760)

	evil := strings.Join(hostile[:3], " ")
	e.run("web-2", 8001, map[string]string{"SERVICE_NAME": "web", "SERVICE_COLOUR": evil})
	b.eventually("the new one is registered", fmt.Sprintf(row, "10.0.0.5:8001", "etcd"))
	b.shows("#containers", evil)
	b.shows("#timeline", "web at 10.0.0.5:8001 is registered with etcd")
	b.eventually("the same page", "window.same")
	if harm := value[bool](b, `"harm" in window || document.images.length > 0 || document.scripts.length !== 1`); harm {
		t.Error("a label became markup")
	}
	outline(b, 4)
	contrast(b, "the page of a registrar")
	b.phone()
	if wide := b.wide(); wide != "" {
		t.Errorf("on a phone this is too wide:\n%s", wide)
	}
	b.desktop()

	registrar.kill()
	b.shows("#live", "Not live since")
	registrar.start(t)
	b.shows("#live", "Live, as of")
	b.shows("#headline", "All that runs is registered")
}
