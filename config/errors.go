package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Source is where a value comes from. The zero value is a default.
type Source struct {
	// File and Line are set for a value of the file. Line is 0 if none can be
	// named.
	File string
	Line int
	// Env is the variable of a value of the environment.
	Env string
	// Flag is the name of the flag of a value of the command line.
	Flag string
}

// String names the source as a comment does: "default", "muster.yaml:4", "env
// MUSTER_NODE_ZONE" or "flag --node-zone".
func (s Source) String() string {
	switch {
	case s.Flag != "":
		return "flag --" + s.Flag
	case s.Env != "":
		return "env " + s.Env
	case s.File != "":
		return s.place()
	default:
		return "default"
	}
}

// place names the source as an error does, and a default not at all.
func (s Source) place() string {
	switch {
	case s.Flag != "":
		return "--" + s.Flag
	case s.Env != "":
		return s.Env
	case s.File != "" && s.Line > 0:
		return s.File + ":" + strconv.Itoa(s.Line)
	default:
		return s.File
	}
}

// Error is one thing that is wrong with a configuration. It is a
// driver.ErrInvalid.
type Error struct {
	Source Source
	// Key is the path of the key: "node.zone". Empty if the trouble has none.
	Key string
	// Value is what was given. A secret is redacted.
	Value string
	// Problem says what is wrong.
	Problem string
	// Hint says how to fix it. Empty if Problem says enough.
	Hint string
}

// Error is one line: place, key, value, problem and hint.
func (e *Error) Error() string {
	var b strings.Builder
	if place := e.Source.place(); place != "" {
		b.WriteString(oneLine(place) + ": ") // a variable's name may hold anything
	}
	if e.Key != "" {
		fmt.Fprintf(&b, "%s: %q: ", e.Key, e.Value)
	}
	b.WriteString(oneLine(e.Problem))
	if e.Hint != "" {
		b.WriteString("; " + oneLine(e.Hint))
	}
	return b.String()
}

// Is makes every Error a driver.ErrInvalid.
func (e *Error) Is(target error) bool { return target == driver.ErrInvalid }

func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// problems collects errors, so that all are reported at once.
type problems []*Error

func (f *problems) add(src Source, key, value, problem, hint string) {
	*f = append(*f, &Error{Source: src, Key: key, Value: value, Problem: problem, Hint: hint})
}

// at reports whether what stands at key, as opposed to below it, is already known to be wrong:
// there is nothing below it to be judged.
func (f problems) at(key string) bool {
	return slices.ContainsFunc(f, func(e *Error) bool { return e.Key == key })
}

// has reports whether key or a key below it is already known to be wrong, and
// need not be judged again.
func (f problems) has(key string) bool {
	return slices.ContainsFunc(f, func(e *Error) bool {
		rest, ok := strings.CutPrefix(e.Key, key)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// join returns all errors in the order in which a reader meets them: the file
// from top to bottom, what it lacks, the environment, the flags.
func (f problems) join() error {
	rank := func(s Source) int {
		switch {
		case s.Flag != "":
			return 3
		case s.Env != "":
			return 2
		case s.Line > 0:
			return 0
		default:
			return 1
		}
	}
	slices.SortStableFunc(f, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(rank(a.Source), rank(b.Source)),
			cmp.Compare(a.Source.Line, b.Source.Line))
	})
	errs := make([]error, len(f))
	for i, e := range f {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// leaves flattens joined errors.
func leaves(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	// fmt.Errorf("...: %w", errors.Join(...)) hides the joined ones one level down.
	if inner := errors.Unwrap(err); inner != nil {
		if many := leaves(inner); len(many) > 1 {
			return many
		}
	}
	return []error{err}
}
