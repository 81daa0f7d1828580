package config

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// stub is a provider with a field of every kind.
type stub struct{}

type stubConfig struct {
	Peers        []string          `yaml:"peers"`
	Username     string            `yaml:"username"`
	Password     driver.Secret     `yaml:"password"`
	PasswordFile string            `yaml:"password_file"`
	Timeout      time.Duration     `yaml:"timeout"`
	Retries      int               `yaml:"retries"`
	Weight       float64           `yaml:"weight"`
	Strict       bool              `yaml:"strict"`
	Labels       map[string]string `yaml:"labels"`
	TLS          driver.TLS        `yaml:"tls"`
	Common       common            `yaml:",inline"`
}

type common struct {
	Region string `yaml:"region"`
}

func (stub) NewConfig() any { return &stubConfig{Timeout: 2 * time.Second} }

func (stub) Open(config any) (driver.Driver, error) {
	c := config.(*stubConfig)
	var errs []error
	for i, peer := range c.Peers {
		if err := driver.ValidateAddr(peer); err != nil {
			errs = append(errs, &driver.ConfigError{Key: fmt.Sprintf("peers[%d]", i), Value: peer, Problem: "has no port; write HOST:PORT"})
		}
	}
	if c.Retries < 0 {
		errs = append(errs, &driver.ConfigError{Key: "retries", Value: fmt.Sprint(c.Retries), Problem: "negative; write 0 or more"})
	}
	if _, err := c.TLS.ClientConfig(); err != nil {
		errs = append(errs, err)
	}
	if c.Region() == "nowhere" {
		errs = append(errs, errors.New("nowhere is no region"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	return authorizer{}, nil
}

func (c *stubConfig) Region() string { return c.Common.Region }

type stubDriver struct{}

func (stubDriver) List(context.Context, driver.Query) (driver.Snapshot, error) {
	return driver.Snapshot{}, nil
}
func (stubDriver) Close() error { return nil }

// authorizer is a driver that says that it grants mastership.
type authorizer struct{ stubDriver }

func (authorizer) OpenAuthority(context.Context, driver.AuthorityOptions) (driver.Authority, error) {
	return nil, driver.ErrUnavailable
}

func (authorizer) TTLBounds() (shortest, longest time.Duration) { return time.Second, time.Hour }

type otherConfig struct {
	Addresses []string `yaml:"addresses"`
}

// other grants nothing.
type other struct{}

func (other) NewConfig() any                         { return &otherConfig{} }
func (other) Open(config any) (driver.Driver, error) { return stubDriver{}, nil }

func init() {
	driver.Register("stub", stub{})
	driver.Register("other", other{})
}
