package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/registrar/docker"
)

// docker asks the container engine, where the address may hang on it.
func (r *run) docker(ctx context.Context) []Finding {
	const name = "docker"
	needed := strings.TrimSpace(r.Config.Node.Advertise) == "docker"
	wanted := needed || r.Config.Docker != (config.Docker{})
	bad := Warn
	if wanted {
		bad = Fail
	}
	if r.Engine == nil {
		f := failed(name, r.NoEngine, "correct the section docker")
		f.Status = bad
		return []Finding{f}
	}
	c, how, err := docker.Self(ctx, r.Engine)
	switch {
	case errors.Is(err, docker.ErrNotInContainer) && !wanted:
		return []Finding{ok(name, "not needed: this is no container")}
	case errors.Is(err, docker.ErrNotInContainer), err == nil:
		info, problem := r.Engine.Info(ctx)
		if problem != nil {
			err = problem
			break
		}
		detail := fmt.Sprintf("engine %s at %s answers", info.Version, r.Engine.Host())
		if err != nil {
			return []Finding{ok(name, "%s; this is none of its containers", detail)}
		}
		return []Finding{ok(name, "%s; this is its container %.12s, by %s", detail, c.ID, how)}
	case errors.Is(err, docker.ErrNoEngine) && !wanted:
		return []Finding{ok(name, "this is a container, and there is no engine to ask: the address must be found in another way")}
	case errors.Is(err, driver.ErrNotFound) && !needed:
		bad = Warn // an engine within a container, as on a machine that looks like one
	}
	f := failed(name, err, "see docs/docker.md")
	f.Status = bad
	return []Finding{f}
}
