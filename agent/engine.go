package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// Detectors returns the ways of finding the address that the node's own packages do not
// know: they go before that of the registry. The caller calls the function, which ends them,
// once the node has ended.
func Detectors(c *config.Config) ([]advertise.Detector, func() error, error) {
	engine, err := OpenEngine(c)
	switch {
	case err == nil:
	case c.Docker != (config.Docker{}):
		return nil, nil, err
	default:
		// The environment says where an engine is, in a way that cannot be read. That is
		// nothing to a node that needs none.
		return []advertise.Detector{Unusable("docker", err)}, func() error { return nil }, nil
	}
	hostIP, _ := netip.ParseAddr(c.Detect.HostIP) // Load has checked it
	found := docker.NewDetector(docker.DetectorOptions{Engine: engine, HostIP: hostIP})
	return []advertise.Detector{found}, engine.Close, nil
}

// OpenEngine returns a client of the container engine of a configuration, which the caller
// closes. It does not connect. The error says where what is wrong was given.
func OpenEngine(c *config.Config) (*engine.Client, error) {
	engine, err := engine.New(engine.Config{Host: c.Docker.Host, TLS: c.Docker.TLS})
	if err != nil {
		return nil, c.Locate(inSection("docker", err))
	}
	return engine, nil
}

// Unusable returns a detector that could not be made: it fails with err.
func Unusable(name string, err error) advertise.Detector { return unusable{name, err} }

type unusable struct {
	name string
	err  error
}

func (u unusable) Name() string { return u.name }

func (u unusable) Detect(context.Context, netip.AddrPort) (advertise.Address, error) {
	return advertise.Address{}, u.err
}

// inSection puts the keys of configuration errors below that of their section. Those that
// are variables of the environment are of none.
func inSection(section string, err error) error {
	var wrong *driver.ConfigError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, err := range joined.Unwrap() {
			errs = append(errs, inSection(section, err))
		}
		return errors.Join(errs...)
	}
	if !errors.As(err, &wrong) || wrong.Key == strings.ToUpper(wrong.Key) {
		return err
	}
	return &driver.ConfigError{Key: section + "." + wrong.Key, Value: wrong.Value, Problem: wrong.Problem, Hint: wrong.Hint}
}
