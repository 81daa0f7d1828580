package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/docker/engine"
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
	case err == nil:
		return []Finding{ok(name, "%s; this is its container %.12s, by %s", r.answers(ctx), c.ID, how)}
	case errors.Is(err, docker.ErrNotInContainer):
		// A node asks nothing of it here.
		if err = r.Engine.Ping(ctx); err == nil {
			return []Finding{ok(name, "%s; this is none of its containers", r.answers(ctx))}
		}
	case errors.Is(err, engine.ErrNoEngine) && !wanted:
		return []Finding{ok(name, "this is a container, and there is no engine to ask: the address must be found in another way")}
	case errors.Is(err, driver.ErrNotFound) && !needed:
		bad = Warn // an engine within a container, as on a machine that looks like one
	}
	f := failed(name, err, "see docs/docker.md")
	f.Status = bad
	return []Finding{f}
}

// answers says which engine answers. Its version is worth nothing to a node or a registrar,
// so that a proxy that does not let it be asked for is none the worse.
func (r *run) answers(ctx context.Context) string {
	version := ""
	if info, err := r.Engine.Info(ctx); err == nil {
		version = " " + info.Version
	}
	return fmt.Sprintf("engine%s at %s answers", version, r.Engine.Host())
}
