package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/mastership"
)

// A voter whose disk is full, a real one, cannot save what it must remember: /readyz is 503
// and says where and why, with a code, as muster status does, while the others go on. When
// there is room again it is ready again.
func TestReadyOfAFullDisk(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, 3, staticProvider)
	victim := c.agents[0]
	disk := filepath.Join(c.files.dir, victim.name)
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", disk, "tmpfs", 0, "size=8m"); errors.Is(err, syscall.EPERM) {
		t.Skip("no right to mount a small disk")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	c.start(c.agents...)
	c.waitMaster(0, 3, c.agents...)
	c.eventually("the voter is ready", func(ctx context.Context) bool {
		status, _, err := readyOf(ctx, victim)
		return err == nil && status == http.StatusOK
	})

	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	var reported httpapi.Error
	c.eventually("the voter is not ready", func(ctx context.Context) bool {
		// Each term is something to remember.
		for _, agent := range c.agents {
			_, _, _ = execute(t, "resign", "--agent", agent.httpAddr)
		}
		status, body, err := readyOf(ctx, victim)
		reported = httpapi.Error{}
		return err == nil && status == http.StatusServiceUnavailable && json.Unmarshal(body, &reported) == nil && reported.Reason == string(mastership.WaitUnwritable)
	})
	for _, part := range []string{"not ready: ", "node.data_dir", disk, "no space left on device"} {
		if !strings.Contains(reported.Error, part) {
			t.Errorf("%s does not say %q: %s", httpapi.PathReady, part, reported.Error)
		}
	}
	if _, out, stderr := execute(t, "status", "--agent", victim.httpAddr); !strings.Contains(out, "(reason state_unwritable)") || !strings.Contains(out, "no space left on device") {
		t.Errorf("muster status: %s%s", out, stderr)
	}
	c.waitMaster(1, 3, c.agents[1:]...)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	c.eventually("the voter is ready again", func(ctx context.Context) bool {
		status, _, err := readyOf(ctx, victim)
		return err == nil && status == http.StatusOK
	})
	c.waitMaster(1, 3, c.agents...)
	c.waitNoAlarm(victim)
	c.stopAll()
}

func readyOf(ctx context.Context, agent *agentProcess) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agent.httpAddr+httpapi.PathReady, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// fill writes a file until its disk is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 16; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
}
