package config

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

// stub is a provider with a field of every kind.
type stub struct{}

type stubConfig struct {
	Peers        []string          `yaml:"peers"`
	Username     string            `yaml:"username"`
	Password     secret.String     `yaml:"password"`
	PasswordFile string            `yaml:"password_file"`
	Timeout      time.Duration     `yaml:"timeout"`
	Retries      int               `yaml:"retries"`
	Weight       float64           `yaml:"weight"`
	Strict       bool              `yaml:"strict"`
	Labels       map[string]string `yaml:"labels"`
	TLS          tlsfiles.Config   `yaml:"tls"`

	Headers map[string]secret.String `yaml:"headers"`
	Keys    []secret.String          `yaml:"keys"`
	Common  common                   `yaml:",inline"`
}

type common struct {
	Region string `yaml:"region"`
}

func (stub) NewConfig() any { return &stubConfig{Timeout: 2 * time.Second} }

func (stub) Check(config any) (driver.Abilities, error) {
	can := driver.AbilitiesOf(authorizer{})
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
	if _, err := c.TLS.Client(); err != nil {
		errs = append(errs, err)
	}
	if c.Region() == "nowhere" {
		errs = append(errs, errors.New("nowhere is no region"))
	}
	if err := errors.Join(errs...); err != nil {
		return can, fmt.Errorf("stub: %w", err)
	}
	return can, nil
}

// stubsOpened counts the drivers that were opened.
var stubsOpened atomic.Int64

func (s stub) Open(config any) (driver.Driver, error) {
	stubsOpened.Add(1)
	if _, err := s.Check(config); err != nil {
		return nil, err
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

func (other) NewConfig() any                      { return &otherConfig{} }
func (other) Check(any) (driver.Abilities, error) { return driver.AbilitiesOf(stubDriver{}), nil }
func (other) Open(any) (driver.Driver, error)     { return stubDriver{}, nil }

func init() {
	driver.Register("stub", stub{})
	driver.Register("other", other{})
}
