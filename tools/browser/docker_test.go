package browser

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// docker runs a command of it, and returns what it prints.
func docker(t *testing.T, in []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// engineOrSkip skips the test where no engine answers.
func engineOrSkip(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		if os.Getenv("MUSTER_REQUIRE_DOCKER") == "1" {
			t.Fatalf("no container engine answers, and MUSTER_REQUIRE_DOCKER=1 wants one: %v\n%s", err, out)
		}
		t.Skip("no container engine answers")
	}
}

// imageOf makes one of a program of this repository, without any registry, and returns its name.
func imageOf(t *testing.T, program string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", filepath.Join("..", ".."), "-o", path, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	archive := tar.NewWriter(&files)
	if err := archive.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("muster-browser-%d", time.Now().UnixNano())
	docker(t, files.Bytes(), "import", "--change", `ENTRYPOINT ["/program"]`, "-", name)
	t.Cleanup(func() { docker(t, nil, "rmi", "-f", name) })
	return name
}

// The page follows the containers of a real engine: one that runs, with the port that the engine
// chose, and is removed.
func TestRegistrarOfAnEngine(t *testing.T) {
	engineOrSkip(t)
	b := open(t)
	name := imageOf(t, "./internal/testing/images/twoports")
	// Other tests run containers, too: ours have a label of their own.
	url := registrarWith(t, os.Getenv("DOCKER_HOST"), map[string]any{"require_label": "muster.browser=" + name}).url
	b.visit(url)
	b.shows("#live", "Live, as of")
	b.shows("#host", "followed")
	value[bool](b, "window.same = true")

	web := docker(t, nil, "run", "-d", "--name", name, "-p", "127.0.0.1::80", "--label", "muster.browser="+name, "--label", "SERVICE_NAME=web", "--label", "SERVICE_TAGS=<b>blue</b>", name)
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", web).Run() })
	addr, _, _ := strings.Cut(docker(t, nil, "port", web, "80/tcp"), "\n")
	b.eventually("the container", fmt.Sprintf(`[...document.querySelectorAll("#containers tbody")].some((one) => one.textContent.includes(%q) && one.textContent.includes(%q) && one.textContent.includes("<b>blue</b>") && one.querySelector(".good")?.textContent === "etcd")`, name, addr))
	b.shows("#timeline", "web at "+addr+" is registered with etcd")
	docker(t, nil, "rm", "-f", web)
	b.eventually("the container is gone", fmt.Sprintf(`!document.getElementById("containers").textContent.includes(%q)`, name))
	b.shows("#timeline", "web at "+addr+" is no longer registered with etcd")
	b.eventually("the same page", "window.same")
}
