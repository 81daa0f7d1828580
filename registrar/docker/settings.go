package docker

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// settingPrefix begins the name of every variable and label that says how a container
// is registered. It is upper case; what follows may be of any.
const settingPrefix = "SERVICE_"

// The keys that are not passed on as attributes.
const (
	keyName     = "name"
	keyTags     = "tags"
	keyID       = "id"
	keyIgnore   = "ignore"
	keyNotReady = "publish_not_ready"
)

// everyPort is the width of a setting that names no port, wider than any range.
const everyPort = 1 << 16

// setting is one variable or label of these forms:
//
//	SERVICE_KEY               for every port
//	SERVICE_8000-8999_KEY     for these
//	SERVICE_80_KEY            for this one
//	SERVICE_80_udp_KEY        for this one and protocol; a range can have it too
type setting struct {
	written string // the name as it was written
	label   bool   // and not a variable
	value   string

	key      string // lower case
	from, to uint16
	width    int    // how many ports it may be for
	protocol string // empty for all
}

// source names the setting in messages.
func (s setting) source() string {
	if s.label {
		return "label " + s.written
	}
	return s.written
}

func (s setting) appliesTo(p port) bool {
	return s.width == everyPort || s.from <= p.number && p.number <= s.to && (s.protocol == "" || s.protocol == p.protocol)
}

// sameLevel reports whether s and t are for the same ports.
func (s setting) sameLevel(t setting) bool {
	return s.width == t.width && s.from == t.from && s.protocol == t.protocol
}

// settings are those of a container, the weaker ones first: what is for fewer ports
// beats what is for more, a protocol beats none, a label beats a variable, and of
// equal variables the last one counts.
type settings []setting

// parseSettings returns the settings of c. A name that means no port is told of.
func parseSettings(c Container, report func(error)) settings {
	var all settings
	add := func(name, value string, label bool) {
		s, ok, err := parseSetting(name)
		if err != nil {
			report(err)
		}
		if ok {
			s.value, s.label = value, label
			all = append(all, s)
		}
	}
	for _, variable := range c.Config.Env {
		if name, value, ok := strings.Cut(variable, "="); ok {
			add(name, value, false)
		}
	}
	// Where two differ in case alone, the upper one counts.
	labels := slices.Sorted(maps.Keys(c.Config.Labels))
	for _, name := range slices.Backward(labels) {
		add(name, c.Config.Labels[name], true)
	}
	slices.SortStableFunc(all, func(a, b setting) int {
		return cmp.Or(
			cmp.Compare(b.width, a.width),
			cmp.Compare(min(len(a.protocol), 1), min(len(b.protocol), 1)),
			cmp.Compare(b.from, a.from),
			cmp.Compare(boolInt(a.label), boolInt(b.label)),
		)
	})
	return all
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// parseSetting reads a name. ok is false for one that is not meant for us.
func parseSetting(name string) (s setting, ok bool, err error) {
	rest, ours := strings.CutPrefix(name, settingPrefix)
	if !ours || rest == "" {
		return s, false, nil
	}
	s = setting{written: name, key: strings.ToLower(rest), width: everyPort}
	head, tail, _ := strings.Cut(rest, "_")
	low, high, isRange := strings.Cut(head, "-")
	if !isRange {
		high = low
	}
	if tail == "" || !isNumber(low) || !isNumber(high) {
		return s, !strings.HasSuffix(rest, "_"), nil
	}
	from, fromOK := portNumber(low)
	to, toOK := portNumber(high)
	if !fromOK || !toOK || from > to {
		return s, false, &driver.ConfigError{Key: name, Value: head, Problem: "no port and no range of ports; write one from 1 to 65535, or two, the lower first, as 8000-8999"}
	}
	s.from, s.to, s.width = from, to, int(to)-int(from)+1
	if protocol, key, more := strings.Cut(tail, "_"); more && key != "" && slices.Contains(protocols, strings.ToLower(protocol)) {
		s.protocol, tail = strings.ToLower(protocol), key
	}
	s.key = strings.ToLower(tail)
	return s, true, nil
}

// isNumber reports whether s has digits and nothing else.
func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func portNumber(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// of returns the settings that apply to p, by key.
func (all settings) of(p port) map[string]setting {
	found := make(map[string]setting)
	for _, s := range all {
		if s.appliesTo(p) {
			found[s.key] = s
		}
	}
	return found
}

// tags returns the tags of p: those of its strongest setting alone or, merged, of one
// on each level, the strongest first.
func (all settings) tags(p port, merge bool) []string {
	var lists []setting
	for _, s := range all {
		switch {
		case s.key != keyTags || !s.appliesTo(p):
		case len(lists) > 0 && (!merge || lists[len(lists)-1].sameLevel(s)):
			lists[len(lists)-1] = s
		default:
			lists = append(lists, s)
		}
	}
	var tags []string
	for _, s := range slices.Backward(lists) {
		tags = append(tags, SplitTags(s.value)...)
	}
	return tags
}

// attrs returns what registrator's keys do not use up.
func attrs(found map[string]setting) map[string]string {
	rest := make(map[string]string)
	for key, s := range found {
		switch key {
		case keyName, keyTags, keyID, keyIgnore, keyNotReady:
		default:
			rest[key] = s.value
		}
	}
	return rest
}

// isNo reports whether a value says no. SERVICE_IGNORE=false ignores nothing.
func isNo(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "0", "f", "false", "n", "no", "off":
		return true
	}
	return false
}

// SplitTags splits a list of tags at its commas, but not at those with a backslash in
// front, which are part of a tag. White space around a tag goes, and what is empty is
// none.
func SplitTags(list string) []string {
	var tags []string
	for _, tag := range splitUnescaped(list) {
		if tag = strings.TrimSpace(strings.ReplaceAll(tag, `\,`, ",")); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}

// splitUnescaped splits a list at its commas and leaves the backslashes.
func splitUnescaped(list string) []string {
	var parts []string
	start := 0
	for i := range len(list) {
		if list[i] == ',' && (i == 0 || list[i-1] != '\\') {
			parts = append(parts, list[start:i])
			start = i + 1
		}
	}
	return append(parts, list[start:])
}
