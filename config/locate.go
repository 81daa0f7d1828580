package config

import (
	"errors"
	"regexp"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Locate returns err, which using the configuration has come to, with the place at which each
// key was given that it is about. A *driver.ConfigError, whose key is one of the whole
// configuration, becomes an *Error; any other error that names a key, as "node.bind: ...",
// gets the place in front of it, and stays what it is to errors.Is. What names no key, or one
// that was not given, is returned as it is.
func (c *Config) Locate(err error) error {
	var errs []error
	for _, e := range joined(err) {
		errs = append(errs, c.locate(e))
	}
	return errors.Join(errs...)
}

func (c *Config) locate(err error) error {
	var known *Error
	var bad *driver.ConfigError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &bad) && bad.Error() == err.Error():
		return &Error{Source: c.nearest(bad.Key), Key: bad.Key, Value: shown(bad.Value), Problem: bad.Problem, Hint: bad.Hint}
	}
	if place := c.nearest(c.keyIn(err.Error())).place(); place != "" {
		return &located{oneLine(place), err}
	}
	return err
}

// located is an error with the place of the value that it is about.
type located struct {
	place string
	err   error
}

func (l *located) Error() string { return l.place + ": " + l.err.Error() }
func (l *located) Unwrap() error { return l.err }

// joined returns the errors that errors.Join has joined, or else err alone: one that wraps
// several has a text of its own, which is not taken apart.
func joined(err error) []error {
	if err == nil {
		return nil
	}
	many, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(many.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, e := range many.Unwrap() {
		all = append(all, joined(e)...)
	}
	return all
}

// keyNamed finds what may be keys in the text of an error: sections are left out, whose names are
// words of sentences as well.
var keyNamed = regexp.MustCompile(`([a-z_]+(?:\.[a-z_]+)+)(?:\[[^\]]*\])?: `)

// keyIn returns the first key of the configuration that text is about, or "".
func (c *Config) keyIn(text string) string {
	if c.schema == nil {
		return "" // made by hand
	}
	for _, m := range keyNamed.FindAllStringSubmatch(text, -1) {
		if e, ok := c.schema.byKey[m[1]]; ok && !e.section {
			return m[1]
		}
	}
	return ""
}

// nearest is the source of key, or else of the list or section that it is part of.
func (c *Config) nearest(key string) Source {
	for ; key != ""; key = key[:max(0, strings.LastIndexAny(key, ".["))] {
		if source, ok := c.sources[key]; ok {
			return source
		}
	}
	return Source{}
}
