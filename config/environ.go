package config

import (
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/musterhq/muster/internal/decode"
)

// environment is the variables by name.
type environment map[string]string

func newEnvironment(pairs []string) environment {
	if pairs == nil {
		pairs = os.Environ()
	}
	env := make(environment, len(pairs))
	for _, pair := range pairs {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	return env
}

func (env environment) lookup(name string) (string, bool) {
	value, ok := env[name]
	return value, ok
}

// read returns what the environment says. A variable that is set and empty says
// nothing, as compose files that pass variables on would have it.
func (env environment) read(s *schema, f *problems) layer {
	values := make(layer)
	known := make(map[string]bool)
	for _, e := range s.values {
		name := e.env()
		known[name] = true
		text := env[name]
		if text == "" {
			continue
		}
		v, problem, hint := decode.Line(e.typ, text)
		if problem != "" {
			f.add(Source{Env: name}, e.key, shownFor(e, text), problem, hint)
			continue
		}
		values[e.key] = v.Interface()
	}
	env.misspelled(s, known, f)
	return values
}

// misspelled reports the variables that were surely meant for a key. Others that
// start like ours are left alone: Kubernetes sets MUSTER_PORT and the like where
// a service is called muster.
func (env environment) misspelled(s *schema, known map[string]bool, f *problems) {
	all := slices.Sorted(maps.Keys(known))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !strings.HasPrefix(name, envPrefix) || known[name] {
			continue
		}
		value := decode.Redacted
		if !decode.LooksSecret(name) {
			value = shown(env[name])
		}
		if near, d := closest(name, all); d <= 2 {
			f.add(Source{Env: name}, "", "", "no such variable", "did you mean "+near+"?")
		} else if rest, ok := strings.CutPrefix(name, envPrefix+"PROVIDER_"); ok {
			f.add(Source{Env: name}, "provider."+strings.ToLower(rest), value,
				"unknown key", "providers known here: "+strings.Join(s.byKey["provider"].names(), ", "))
		}
	}
}

func closest(name string, candidates []string) (string, int) {
	best, bound := "", 3
	for _, c := range candidates {
		if d := distance(name, c, bound); d < bound {
			best, bound = c, d
		}
	}
	return best, bound
}

// AddFlags adds to fs a flag for every key: --node-zone for node.zone, lists as
// a,b or repeated, maps as k=v,k=v. Secrets have none, since everyone on the host
// can read a command line.
func AddFlags(fs *pflag.FlagSet) error {
	s, err := knownSchema()
	if err != nil {
		return err
	}
	for _, e := range s.values {
		if e.secret() {
			continue
		}
		usage := e.usage
		if usage == "" {
			usage = "sets " + e.key
		}
		flag := fs.VarPF(&text{kind: typeName(e.typ), repeats: !decode.IsScalar(e.typ)}, e.flag(), "", usage)
		if flag.Value.Type() == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	return nil
}

// text is the value of a flag as it was given. Load parses it, by the same rules
// as the environment's.
type text struct {
	kind    string
	repeats bool
	value   string
}

func (t *text) String() string { return t.value }
func (t *text) Type() string   { return t.kind }

func (t *text) Set(s string) error {
	if t.repeats && t.value != "" {
		s = t.value + "," + s
	}
	t.value = s
	return nil
}

// readFlags returns what those flags say that were set.
func readFlags(fs *pflag.FlagSet, s *schema, f *problems) layer {
	values := make(layer)
	if fs == nil {
		return values
	}
	for _, e := range s.values {
		flag := fs.Lookup(e.flag())
		if flag == nil || !flag.Changed {
			continue
		}
		given := flag.Value.String()
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			given = strings.Join(list.GetSlice(), ",")
		}
		v, problem, hint := decode.Line(e.typ, given)
		if problem != "" {
			f.add(Source{Flag: flag.Name}, e.key, shownFor(e, given), problem, hint)
			continue
		}
		values[e.key] = v.Interface()
	}
	return values
}
