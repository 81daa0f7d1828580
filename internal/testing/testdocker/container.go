package testdocker

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

// Options say how a container is made.
type Options struct {
	// Image is from Build.
	Image string
	// Flags are those of docker run, such as "-p", "0:7946" or "--network", "none".
	Flags []string
	// Name is the container's. Default: a unique one.
	Name string
	// Env is the environment, KEY=value each.
	Env []string
	// Labels are put on the container.
	Labels map[string]string
	// Socket gives the container the socket of the engine, at the usual place.
	Socket bool
}

// Container is one that was made here.
type Container struct {
	ID   string // all 64 digits
	Name string

	e *Engine
}

// Run makes a container and starts it. args go to the program. It is removed when the
// test ends, and its log is shown if the test failed.
func (e *Engine) Run(o Options, args ...string) *Container {
	e.t.Helper()
	c := e.Create(o, args...)
	c.Start()
	return c
}

// Create is Run without the start.
func (e *Engine) Create(o Options, args ...string) *Container {
	e.t.Helper()
	name := o.Name
	if name == "" {
		name = unique()
	}
	command := append([]string{"create", "--name", name}, labels()...)
	for _, pair := range o.Env {
		command = append(command, "--env", pair)
	}
	for key, value := range o.Labels {
		command = append(command, "--label", key+"="+value)
	}
	if o.Socket {
		command = append(command, "--volume", socket()+":/var/run/docker.sock")
	}
	command = append(command, o.Flags...)
	command = append(append(command, o.Image), args...)
	out, err := docker(command...)
	if err != nil {
		e.t.Fatal(err)
	}
	c := &Container{ID: strings.TrimSpace(out), Name: name, e: e}
	e.t.Cleanup(c.end)
	return c
}

// socket is the path of the engine's, on its host.
func socket() string {
	if path, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		return path
	}
	return "/var/run/docker.sock"
}

// end removes the container, which the test may have done.
func (c *Container) end() {
	if c.e.t.Failed() {
		if log, err := c.log(); err == nil {
			c.e.t.Logf("log of container %s:\n%s", c.Name, tail(log, 80))
		}
	}
	if out, err := docker("rm", "-f", "-v", c.ID); err != nil && !strings.Contains(err.Error(), "No such container") {
		c.e.t.Errorf("remove container %s: %v\n%s", c.Name, err, out)
	}
}

// Start starts the container. Ports published at 0 get others than before.
func (c *Container) Start() { c.e.t.Helper(); c.e.Docker("start", c.ID) }

// Occupy has a container that holds a port of the host, so that nothing else gets it, with
// an image from Build and the arguments of a program that stays. That another has the port
// already will do: engines hand them out in turn.
func (e *Engine) Occupy(port, image string, args ...string) {
	e.t.Helper()
	c := e.Create(Options{Image: image, Flags: []string{"-p", port + ":1"}}, args...)
	_, err := docker("start", c.ID)
	if err != nil && !strings.Contains(err.Error(), "already allocated") && !strings.Contains(err.Error(), "already in use") {
		e.t.Fatal(err)
	}
}

// Stop ends the program with SIGTERM, and with SIGKILL after the time.
func (c *Container) Stop(within time.Duration) {
	c.e.t.Helper()
	c.e.Docker("stop", "-t", strconv.Itoa(int(within.Seconds())), c.ID)
}

// Kill ends the program at once, as docker kill does.
func (c *Container) Kill() { c.e.t.Helper(); c.e.Docker("kill", c.ID) }

// Restart kills the program and starts it again.
func (c *Container) Restart() { c.e.t.Helper(); c.e.Docker("restart", "-t", "0", c.ID) }

// Remove kills the program and removes the container.
func (c *Container) Remove() { c.e.t.Helper(); c.e.Docker("rm", "-f", "-v", c.ID) }

// Inspect returns what docker inspect prints by a template, such as
// "{{.State.Status}}".
func (c *Container) Inspect(format string) string {
	c.e.t.Helper()
	return c.e.Docker("inspect", "--format", format, c.ID)
}

// Running reports whether the program runs.
func (c *Container) Running() bool {
	c.e.t.Helper()
	return c.Inspect("{{.State.Running}}") == "true"
}

// Wait waits until the program has ended and returns its status.
func (c *Container) Wait() int {
	c.e.t.Helper()
	status, err := strconv.Atoi(c.e.Docker("wait", c.ID))
	if err != nil {
		c.e.t.Fatalf("docker wait: %v", err)
	}
	return status
}

// Port returns the HOST:PORT at which this host publishes a port of the container,
// such as "7946/tcp", over IPv4.
func (c *Container) Port(port string) string {
	c.e.t.Helper()
	for _, line := range strings.Fields(c.e.Docker("port", c.ID, port)) {
		if !strings.HasPrefix(line, "[") {
			return line
		}
	}
	c.e.t.Fatalf("port %s of container %s is not published over IPv4", port, c.Name)
	return ""
}

// Gateway is the address of this host in a network of the container, which runs.
func (c *Container) Gateway(network string) string {
	c.e.t.Helper()
	return c.Inspect(`{{(index .NetworkSettings.Networks "` + network + `").Gateway}}`)
}

// Log returns all that the program has printed, on either output.
func (c *Container) Log() string {
	c.e.t.Helper()
	log, err := c.log()
	if err != nil {
		c.e.t.Fatal(err)
	}
	return log
}

func (c *Container) log() (string, error) {
	out, err := exec.Command("docker", "logs", c.ID).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker logs: %w: %s", err, out)
	}
	return string(out), nil
}

// WaitLog waits until the program has printed text.
func (c *Container) WaitLog(text string) {
	c.e.t.Helper()
	wait.NoError(c.e.t, func() error {
		if !strings.Contains(c.Log(), text) {
			return fmt.Errorf("container %s has not printed %q", c.Name, text)
		}
		return nil
	})
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
