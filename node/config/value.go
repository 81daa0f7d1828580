package config

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/discovery/driver"
)

// parse turns the text of a scalar into a value of type t. What it returns
// besides is the problem and its mend, empty if there is none.
func parse(t reflect.Type, text string) (reflect.Value, string) {
	v := reflect.New(t).Elem()
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return v, err.Error()
		}
		return v, ""
	}
	switch {
	case t == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return v, "not a duration; write a number with a unit, as 500ms, 10s or 1m30s"
		}
		v.SetInt(int64(d))
		return v, ""
	case t.Kind() == reflect.String:
		v.SetString(text)
		return v, ""
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return v, "neither true nor false; write true or false"
		}
		v.SetBool(b)
		return v, ""
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return v, "not a whole number; write digits, as 3"
		}
		v.SetInt(n)
		return v, ""
	case v.CanUint():
		n, err := strconv.ParseUint(text, 10, t.Bits())
		if err != nil {
			return v, "not a whole number from 0; write digits, as 3"
		}
		v.SetUint(n)
		return v, ""
	default:
		f, err := strconv.ParseFloat(text, t.Bits())
		if err != nil {
			return v, "not a number; write digits, as 0.5"
		}
		v.SetFloat(f)
		return v, ""
	}
}

// parseLine turns one line of text, as the environment and flags have it, into
// a value of type t: lists as a,b and maps as k=v,k=v.
func parseLine(t reflect.Type, text string) (reflect.Value, string) {
	switch {
	case scalar(t):
		return parse(t, text)
	case t.Kind() == reflect.Slice:
		list := reflect.MakeSlice(t, 0, 0)
		for item := range items(text) {
			v, problem := parse(t.Elem(), item)
			if problem != "" {
				return list, problem
			}
			list = reflect.Append(list, v)
		}
		return list, ""
	default:
		m := reflect.MakeMap(t)
		for item := range items(text) {
			key, value, ok := strings.Cut(item, "=")
			key = strings.TrimSpace(key)
			if !ok || key == "" {
				return m, "not a list of names and values; write name=value,name=value"
			}
			v, problem := parse(t.Elem(), strings.TrimSpace(value))
			if problem != "" {
				return m, problem
			}
			m.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), v)
		}
		return m, ""
	}
}

// items yields the parts between commas, without white space and without empty
// ones, so that a trailing comma does no harm.
func items(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}

// checkScalar says why n, of the YAML file, cannot be the text of a scalar of
// type t, and how that is mended. Plain text needs no quotes to be text: 1.10
// where a string is wanted is the string "1.10".
func checkScalar(t reflect.Type, n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a section where " + wanted(t) + " is wanted; write one value"
	case n.Kind == yaml.SequenceNode:
		return "a list where " + wanted(t) + " is wanted; write one value"
	case n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str":
		return "the tag " + n.Tag + " means nothing here; leave it out"
	}
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0
	switch typeName(t) {
	case "bool":
		if quoted || n.ShortTag() != "!!bool" {
			return "neither true nor false; write true or false, without quotes"
		}
	case "int", "number":
		if quoted {
			return "text where " + wanted(t) + " is wanted; write it without quotes"
		}
	}
	return ""
}

func wanted(t reflect.Type) string {
	switch name := typeName(t); name {
	case "int":
		return "a whole number"
	case "string", "secret":
		return "text"
	default:
		return "a " + name
	}
}

// shown is a value as errors have it: clipped, and without the password of a URL.
func shown(text string) string {
	text = driver.RedactURL(text)
	const most = 200
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return text
}

const redacted = "[redacted]"

// shownFor is shown, and redacts the values of secrets.
func shownFor(e *entry, text string) string {
	if e.secret() && text != "" {
		return redacted
	}
	if e.typ.Kind() == reflect.Slice {
		parts := strings.Split(text, ",")
		for i := range parts {
			parts[i] = shown(parts[i])
		}
		return strings.Join(parts, ",")
	}
	return shown(text)
}
