package grammar

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/internal/binding"
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
	keyNetwork  = "network"
	keyAddress  = "ip"
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

func (s setting) appliesTo(p binding.Port) bool {
	return s.width == everyPort || s.from <= p.Number && p.Number <= s.to && (s.protocol == "" || s.protocol == p.Protocol)
}

// sameLevel reports whether s and t are for the same ports.
func (s setting) sameLevel(t setting) bool {
	return s.width == t.width && s.from == t.from && s.protocol == t.protocol
}

// settings are those of a container, the weaker ones first: what is for fewer ports
// beats what is for more, a protocol beats none, a label beats a variable, and of
// equal variables the last one counts.
//
// Those for one port are found by its number, so that a container with thousands of ports
// and a setting for each costs no more than so many of either.
type settings struct {
	several []setting // for every port, or for a range
	single  map[uint16][]setting
}

// all yields every setting.
func (all settings) all() iter.Seq[setting] {
	return func(yield func(setting) bool) {
		for _, s := range all.several {
			if !yield(s) {
				return
			}
		}
		for _, number := range slices.Sorted(maps.Keys(all.single)) {
			for _, s := range all.single[number] {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// any reports whether there is a setting with the key.
func (all settings) any(key string) bool {
	for s := range all.all() {
		if s.key == key {
			return true
		}
	}
	return false
}

// anyNotReady reports whether some port is registered whatever the health check says.
func (all settings) anyNotReady() bool {
	for s := range all.all() {
		if s.notReady() {
			return true
		}
	}
	return false
}

// applying yields the settings that apply to p, the weaker ones first.
func (all settings) applying(p binding.Port) iter.Seq[setting] {
	return func(yield func(setting) bool) {
		for _, list := range [][]setting{all.several, all.single[p.Number]} {
			for _, s := range list {
				if s.appliesTo(p) && !yield(s) {
					return
				}
			}
		}
	}
}

// parseSettings returns the settings of c. A name that means no port is reported.
func parseSettings(c engine.Container, report func(error)) settings {
	var all []setting
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
	found := settings{single: make(map[uint16][]setting)}
	for _, s := range all {
		if s.width > 1 {
			found.several = append(found.several, s)
		} else {
			found.single[s.from] = append(found.single[s.from], s)
		}
	}
	return found
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
	from, fromOK := binding.PortNumber(low)
	to, toOK := binding.PortNumber(high)
	if !fromOK || !toOK || from > to {
		return s, false, &driver.ConfigError{Key: name, Value: head, Problem: "no port and no range of ports", Hint: "write one from 1 to 65535, or two, the lower first, as 8000-8999"}
	}
	s.from, s.to, s.width = from, to, int(to)-int(from)+1
	if protocol, key, more := strings.Cut(tail, "_"); more && key != "" && binding.IsProtocol(strings.ToLower(protocol)) {
		s.protocol, tail = strings.ToLower(protocol), key
	}
	s.key = strings.ToLower(tail)
	return s, true, nil
}

// isNumber reports whether s has digits and nothing else.
func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// of returns the settings that apply to p, by key.
func (all settings) of(p binding.Port) map[string]setting {
	found := make(map[string]setting)
	for s := range all.applying(p) {
		found[s.key] = s
	}
	return found
}

// tags returns the settings with the tags of p: its strongest alone or, merged, one on
// each level, the strongest first.
func (all settings) tags(p binding.Port, merge bool) []setting {
	var lists []setting
	for s := range all.applying(p) {
		switch {
		case s.key != keyTags:
		case len(lists) > 0 && (!merge || lists[len(lists)-1].sameLevel(s)):
			lists[len(lists)-1] = s
		default:
			lists = append(lists, s)
		}
	}
	slices.Reverse(lists)
	return lists
}

// declared adds to the ports of a container those that its settings name, for a network in
// which nothing need be published: each that SERVICE_<port>_NAME names and, where nothing
// is exposed, each that any SERVICE_<port>_KEY does. One that says no protocol is of the
// ports of that number, and of TCP if there are none.
func (all settings) declared(ports []binding.Port) []binding.Port {
	nothing := len(ports) == 0
	known := make(map[uint16]bool, len(ports))
	for _, p := range ports {
		known[p.Number] = true
	}
	counts := func(s setting) bool { return nothing || s.key == keyName }
	for number, list := range all.single {
		for _, s := range list {
			if counts(s) && s.protocol != "" {
				ports, known[number] = append(ports, binding.Port{Number: number, Protocol: s.protocol}), true
			}
		}
		if !known[number] && slices.ContainsFunc(list, counts) {
			ports = append(ports, binding.Port{Number: number, Protocol: "tcp"})
		}
	}
	return binding.SortedPorts(ports)
}

// attrs returns what registrator's keys do not use up.
func attrs(found map[string]setting) map[string]string {
	rest := make(map[string]string)
	for key, s := range found {
		switch key {
		case keyName, keyTags, keyID, keyIgnore, keyNotReady, keyNetwork, keyAddress:
		default:
			rest[key] = s.value
		}
	}
	for other, key := range renamedKeys {
		if value, ok := rest[other]; ok {
			delete(rest, other)
			if _, both := rest[key]; !both {
				rest[key] = value
			}
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
