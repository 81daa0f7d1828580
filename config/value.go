package config

import (
	"net/url"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/decode"
)

// checkScalar says why n, of the YAML file, cannot be the text of a scalar of
// type t, and how to fix that. Plain text needs no quotes to be text: 1.10
// where a string is wanted is the string "1.10".
func checkScalar(t reflect.Type, n *yaml.Node) (problem, hint string) {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a section where " + wanted(t) + " is wanted", "write one value"
	case n.Kind == yaml.SequenceNode:
		return "a list where " + wanted(t) + " is wanted", "write one value"
	case n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str" && typeName(t) == "secret":
		return "a tag means nothing here", "leave it out, and quote text that begins with !"
	case n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str":
		return "the tag " + n.Tag + " means nothing here", "leave it out"
	}
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0
	switch typeName(t) {
	case "bool":
		if quoted || n.ShortTag() != "!!bool" {
			return "neither true nor false", "write true or false, without quotes"
		}
	case "int", "number":
		if quoted {
			return "text where " + wanted(t) + " is wanted", "write it without quotes"
		}
	}
	return "", ""
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
	text = redactURL(text)
	const most = 200
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return text
}

// shownFor is shown, and redacts the values of secrets.
func shownFor(e *entry, text string) string {
	if e.secret() && text != "" {
		return decode.Redacted
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

// redactURL returns text without the password, if it is a URL that has one.
func redactURL(text string) string {
	if !strings.Contains(text, "@") || !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return decode.Redacted // not quite a URL, and so not known where its password ends
	}
	return strings.Replace(u.Redacted(), ":xxxxx@", ":[redacted]@", 1)
}
