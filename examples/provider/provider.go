// Package provider is a whole discovery provider, as small as one can be: the instances are
// in a JSON file that something else writes. Import it for its side effect, and configure it
// like any other:
//
//	provider: {jsonfile: {path: /run/instances.json}}
//
// The file holds an array of objects with service, instance_id and addr:
//
//	[{"service": "orders", "instance_id": "a", "addr": "10.0.0.5:7946"}]
package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/musterhq/muster/discovery/driver"
)

func init() { driver.Register("jsonfile", kind{}) }

// Config is the section of the configuration.
type Config struct {
	Path string `yaml:"path" usage:"JSON file of the instances"`
}

type kind struct{}

func (kind) NewConfig() any { return new(Config) }

// Check reports what is wrong with the configuration, and opens nothing.
func (kind) Check(config any) (driver.Abilities, error) {
	can := driver.AbilitiesOf((*file)(nil))
	if config.(*Config).Path == "" {
		return can, &driver.ConfigError{Key: "path", Problem: "missing", Hint: "name the file of the instances"}
	}
	return can, nil
}

func (k kind) Open(config any) (driver.Driver, error) {
	if _, err := k.Check(config); err != nil {
		return nil, err
	}
	return &file{path: config.(*Config).Path}, nil
}

// file is the driver: one attempt per call, no retry, no cache, no log.
type file struct {
	path   string
	closed atomic.Bool
}

type entry struct {
	Service    string `json:"service"`
	InstanceID string `json:"instance_id"`
	Addr       string `json:"addr"`
}

// List reads the file once. What cannot be read as a whole is an error, never an empty set;
// an entry that cannot be read costs none of its neighbours.
func (f *file) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if f.closed.Load() {
		return driver.Snapshot{}, fmt.Errorf("jsonfile: %w", driver.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return driver.Snapshot{}, err
	}
	text, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return driver.Snapshot{}, fmt.Errorf("jsonfile: %w: %w", driver.ErrDenied, err)
	case err != nil:
		return driver.Snapshot{}, fmt.Errorf("jsonfile: %w: %w", driver.ErrUnavailable, err)
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(text, &entries); err != nil {
		return driver.Snapshot{}, fmt.Errorf("jsonfile: %w: %s: %w", driver.ErrUnavailable, f.path, err)
	}
	var s driver.Snapshot
	for n, raw := range entries {
		var e entry
		err := json.Unmarshal(raw, &e)
		i := driver.Instance{Service: e.Service, InstanceID: e.InstanceID, Addr: e.Addr}
		if err == nil {
			err = i.Validate()
		}
		switch {
		case err != nil:
			s.Skipped = append(s.Skipped, driver.Skipped{Key: fmt.Sprintf("%s[%d]", f.path, n), Reason: err})
		case i.Service == q.Service:
			s.Instances = append(s.Instances, i)
		}
	}
	return s, nil
}

// Close makes further calls fail.
func (f *file) Close() error {
	f.closed.Store(true)
	return nil
}
