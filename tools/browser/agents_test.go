package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// built returns the path of a program that it builds once, in a directory of this repository.
func built(t *testing.T, name, dir, program string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(programs, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", dir, "-o", path, program).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return path
}

var (
	building sync.Mutex
	programs string // the directory of what was built
)

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "muster-browser-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(status)
}

func muster(t *testing.T) string {
	t.Helper()
	return built(t, "muster", filepath.Join("..", ".."), "./cmd/muster")
}

// freeAddrs returns addresses of loopback that nothing listens at.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all at once, so that no two are the same
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// process is a program that a test runs.
type process struct {
	name string
	args []string
	cmd  *exec.Cmd
}

// start runs it again after kill, too. Its environment has nothing that configures Muster.
func (p *process) start(t *testing.T) {
	t.Helper()
	p.cmd = exec.Command(p.name, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = t.Output(), t.Output()
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "MUSTER_") && !strings.HasPrefix(v, "DOCKER_") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// run starts a program that ends with the test.
func run(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{name: name, args: args}
	p.start(t)
	t.Cleanup(p.kill)
	return p
}

// configured writes a configuration, which JSON is, too, and returns its path.
func configured(t *testing.T, c map[string]any) string {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "muster.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// agent is an agent with a page.
type agent struct {
	*process
	id, url string
}

// cluster starts n agents with a static list, and waits until they are ready. Change, if not nil,
// changes the configuration of each, by number.
func cluster(t *testing.T, n int, change func(i int, c map[string]any)) []*agent {
	t.Helper()
	addrs := freeAddrs(t, 2*n)
	var agents []*agent
	for i := range n {
		id := fmt.Sprintf("orders-%d", i+1)
		c := map[string]any{
			"cluster": "orders",
			"node": map[string]any{
				"id": id, "bind": addrs[i], "data_dir": t.TempDir(), "zone": fmt.Sprintf("eu-%d", i%2+1), "tags": []string{"web"},
				"meta": map[string]string{"rack": fmt.Sprint(i + 1)}, "app_addrs": map[string]string{"http": fmt.Sprintf("10.0.0.%d:8080", i+5)},
			},
			"provider": map[string]any{"static": map[string]any{"peers": addrs[:n]}},
			"http":     map[string]any{"addr": addrs[n+i]},
		}
		if change != nil {
			change(i, c)
		}
		agents = append(agents, &agent{run(t, muster(t), "agent", "-c", configured(t, c)), id, "http://" + addrs[n+i] + "/"})
	}
	for _, a := range agents {
		ready(t, a.url)
	}
	return agents
}

// ready waits until an agent or a registrar is.
func ready(t *testing.T, url string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		status, body, err := get(url + "readyz")
		if status == http.StatusOK && !bytes.Contains(body, []byte("no master")) {
			return
		}
		last = fmt.Sprintf("%s %v", body, err)
	}
	t.Fatalf("%s is not ready: %s", url, last)
}

// listening waits until something listens at an address.
func listening(t *testing.T, addr string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	t.Fatal(err)
}

func get(url string) (status int, body []byte, err error) {
	response, err := http.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// master returns which of the agents is, and the others.
func master(t *testing.T, agents []*agent) (m *agent, others []*agent) {
	t.Helper()
	_, body, err := get(agents[0].url + "v1/master")
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		NodeID string `json:"node_id"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		if a.id == answer.NodeID {
			m = a
		} else {
			others = append(others, a)
		}
	}
	if m == nil {
		t.Fatalf("the master is %q", answer.NodeID)
	}
	return m, others
}
