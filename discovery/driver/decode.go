package driver

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// DecodeConfig fills p's configuration in from section, the decoded form of the
// provider's part of a YAML file, and returns it, ready for p.Open. A nil section
// leaves the defaults.
//
// It is strict: a key that the configuration does not have is an error, and so is
// a value of another type. A string is taken for what it spells, since that is
// all that the environment has: a number, true or false, a list of strings with
// commas between, a duration such as "5s". A bare number is no duration, as it
// has no unit. The error joins one *ConfigError for each key that is wrong, with
// its path below the section.
func DecodeConfig(p Provider, section map[string]any) (any, error) {
	config := p.NewConfig()
	target := reflect.ValueOf(config)
	if target.Kind() != reflect.Pointer || target.Elem().Kind() != reflect.Struct {
		if len(section) == 0 {
			return config, nil
		}
		return nil, fmt.Errorf("%w: the provider's configuration is %T, and takes no keys", ErrInvalid, config)
	}
	errs := unknownKeys("", section, target.Type())
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:          config,
		TagName:         "yaml",
		SquashTagOption: "inline",
		MatchName:       matchName,
		DecodeHook:      mapstructure.DecodeHookFuncValue(fromText),
	})
	if err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	errs = append(errs, configErrors(dec.Decode(section))...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return config, nil
}

// matchName differs from mapstructure's own, which ignores case: a key is written
// in one way, that of its tag, or in lower case where there is no tag.
func matchName(key, field string) bool { return key == strings.ToLower(field) }

// unknownKeys looks for keys itself, as mapstructure names them only in prose, and
// not at all beside another error.
func unknownKeys(path string, value any, t reflect.Type) []error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		section, ok := value.(map[string]any)
		if !ok {
			return nil // decoding says so, or a text is decoded into it
		}
		fields := make(map[string]reflect.Type)
		keysOf(t, fields)
		var errs []error
		for _, key := range slices.Sorted(maps.Keys(section)) {
			field, known := fields[key]
			if !known {
				errs = append(errs, &ConfigError{
					Key:     join(path, key),
					Value:   unlessSecret(key, plain(section[key])),
					Problem: "unknown key; known are " + strings.Join(slices.Sorted(maps.Keys(fields)), ", "),
				})
				continue
			}
			errs = append(errs, unknownKeys(join(path, key), section[key], field)...)
		}
		return errs
	case reflect.Slice, reflect.Array:
		list, ok := value.([]any)
		if !ok {
			return nil
		}
		var errs []error
		for i, element := range list {
			errs = append(errs, unknownKeys(fmt.Sprintf("%s[%d]", path, i), element, t.Elem())...)
		}
		return errs
	}
	return nil
}

func keysOf(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !field.IsExported():
		case slices.Contains(strings.Split(options, ","), "inline") && field.Type.Kind() == reflect.Struct:
			keysOf(field.Type, into)
		case name == "":
			into[strings.ToLower(field.Name)] = field.Type
		default:
			into[name] = field.Type
		}
	}
}

// wrongValue is what fromText has against a value. The key is added by
// mapstructure.
type wrongValue struct {
	value   string
	problem string
}

func (e *wrongValue) Error() string { return e.problem }

var (
	durationType    = reflect.TypeFor[time.Duration]()
	secretType      = reflect.TypeFor[Secret]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fromText turns what a file or the environment can write into what a field wants.
func fromText(from, to reflect.Value) (any, error) {
	for from.Kind() == reflect.Interface {
		from = from.Elem()
	}
	if !from.IsValid() {
		return nil, nil
	}
	t := to.Type()
	if t == durationType && from.Kind() != reflect.String {
		switch {
		case from.Type() == durationType:
		case (from.CanInt() || from.CanUint() || from.CanFloat()) && from.IsZero():
			return time.Duration(0), nil
		default:
			return nil, &wrongValue{plain(from.Interface()), "want a duration with its unit, such as 500ms or 10s"}
		}
	}
	if from.Kind() != reflect.String {
		if kind := kindName(t); !fits(from.Kind(), t.Kind()) {
			return nil, &wrongValue{valueFor(to, from.Interface()), "want " + kind}
		}
		return from.Interface(), nil
	}
	s := from.String()
	var value any
	var err error
	var want string
	switch {
	case t == durationType:
		value, err = time.ParseDuration(s)
		want = "a duration such as 500ms, 10s or 1m30s"
	case reflect.PointerTo(t).Implements(unmarshalerType):
		target := reflect.New(t)
		if err := target.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			return nil, &wrongValue{s, oneLine(err)}
		}
		return target.Elem().Interface(), nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return split(s), nil
	case t.Kind() == reflect.Bool:
		value, err = strconv.ParseBool(s)
		want = "true or false"
	case to.CanInt():
		value, err = strconv.ParseInt(s, 10, t.Bits())
		want = "a whole number"
	case to.CanUint():
		value, err = strconv.ParseUint(s, 10, t.Bits())
		want = "a whole number, not negative"
	case to.CanFloat():
		value, err = strconv.ParseFloat(s, t.Bits())
		want = "a number"
	case !fits(reflect.String, t.Kind()):
		return nil, &wrongValue{s, "want " + kindName(t)}
	default:
		return s, nil
	}
	if err != nil {
		return nil, &wrongValue{s, "want " + want}
	}
	return value, nil
}

// fits says of composed kinds what mapstructure would say in its own words; of
// the others it knows better.
func fits(from, to reflect.Kind) bool {
	switch to {
	case reflect.Slice, reflect.Array:
		return from == reflect.Slice || from == reflect.Array
	case reflect.Struct, reflect.Map:
		return from == reflect.Struct || from == reflect.Map
	}
	return true
}

func split(s string) []string {
	list := []string{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// configErrors flattens what mapstructure returns, a tree of joined errors, into
// one ConfigError for each value.
func configErrors(err error) []error {
	if err == nil {
		return nil
	}
	if tree, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range tree.Unwrap() {
			errs = append(errs, configErrors(e)...)
		}
		return errs
	}
	at, ok := err.(*mapstructure.DecodeError)
	if !ok {
		if inner := errors.Unwrap(err); inner != nil {
			return configErrors(inner)
		}
		return []error{fmt.Errorf("%w: %s", ErrInvalid, oneLine(err))}
	}
	if _, tree := at.Unwrap().(interface{ Unwrap() []error }); tree {
		return configErrors(at.Unwrap())
	}
	bad := &ConfigError{Key: at.Name()}
	var wrong *wrongValue
	var parse *mapstructure.ParseError
	var unconvertible *mapstructure.UnconvertibleTypeError
	switch inner := at.Unwrap(); {
	case errors.As(inner, &wrong):
		bad.Value, bad.Problem = wrong.value, wrong.problem
	case errors.As(inner, &parse):
		bad.Value, bad.Problem = valueFor(parse.Expected, parse.Value), "want "+kindName(parse.Expected.Type())
	case errors.As(inner, &unconvertible):
		bad.Value, bad.Problem = valueFor(unconvertible.Expected, unconvertible.Value), "want "+kindName(unconvertible.Expected.Type())
	default:
		bad.Problem = oneLine(inner)
	}
	return []error{bad}
}

func valueFor(expected reflect.Value, value any) string {
	if expected.IsValid() && expected.Type() == secretType {
		return redacted
	}
	return plain(value)
}

// unlessSecret redacts the value of a key that is not known but, by its name, may
// be a secret's that was misspelt.
func unlessSecret(key, value string) string {
	for _, word := range []string{"pass", "secret", "token", "pwd"} {
		if strings.Contains(strings.ToLower(key), word) && value != "" {
			return redacted
		}
	}
	return value
}

// plain shows a value that is not composed, and of others only what they are:
// there may be secrets in them.
func plain(value any) string {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.Invalid:
		return ""
	case reflect.Map:
		return "(a map)"
	case reflect.Slice, reflect.Array:
		return "(a list)"
	}
	return fmt.Sprint(value)
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a map of keys"
	}
	return "a number"
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
