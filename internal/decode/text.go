// Package decode turns text and YAML into the values of configuration structs. The file, the
// environment, flags and discovery.Open all go through it.
package decode

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/secret"
)

// Scalar turns the text of a scalar into a value of type t. The problem is empty if there is
// none; the hint says how to fix it.
func Scalar(t reflect.Type, text string) (value reflect.Value, problem, hint string) {
	v := reflect.New(t).Elem()
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return v, err.Error(), ""
		}
		return v, "", ""
	}
	switch {
	case t == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return v, "not a duration", "write a number with a unit, as 500ms, 10s or 1m30s"
		}
		v.SetInt(int64(d))
		return v, "", ""
	case t.Kind() == reflect.String:
		v.SetString(text)
		return v, "", ""
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return v, "neither true nor false", "write true or false"
		}
		v.SetBool(b)
		return v, "", ""
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return v, "not a whole number", "write digits, as 3"
		}
		v.SetInt(n)
		return v, "", ""
	case v.CanUint():
		n, err := strconv.ParseUint(text, 10, t.Bits())
		if err != nil {
			return v, "not a whole number from 0", "write digits, as 3"
		}
		v.SetUint(n)
		return v, "", ""
	default:
		f, err := strconv.ParseFloat(text, t.Bits())
		if err != nil {
			return v, "not a number", "write digits, as 0.5"
		}
		v.SetFloat(f)
		return v, "", ""
	}
}

// Line turns one line of text, as the environment and flags have it, into
// a value of type t: lists as a,b and maps as k=v,k=v.
func Line(t reflect.Type, text string) (value reflect.Value, problem, hint string) {
	switch {
	case IsScalar(t):
		return Scalar(t, text)
	case t.Kind() == reflect.Slice:
		list := reflect.MakeSlice(t, 0, 0)
		for item := range Items(text) {
			v, problem, hint := Scalar(t.Elem(), item)
			if problem != "" {
				return list, problem, hint
			}
			list = reflect.Append(list, v)
		}
		return list, "", ""
	default:
		m := reflect.MakeMap(t)
		for item := range Items(text) {
			key, value, ok := strings.Cut(item, "=")
			key = strings.TrimSpace(key)
			if !ok || key == "" {
				return m, "not a list of names and values", "write name=value,name=value"
			}
			v, problem, hint := Scalar(t.Elem(), strings.TrimSpace(value))
			if problem != "" {
				return m, problem, hint
			}
			m.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), v)
		}
		return m, "", ""
	}
}

// Items yields the parts between commas, without white space and without empty
// ones, so that a trailing comma does no harm.
func Items(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}

var (
	secretType          = reflect.TypeFor[secret.String]()
	durationType        = reflect.TypeFor[time.Duration]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// Supported reports whether t is the type of a value: a scalar, a list of
// scalars or a map of text to scalars.
func Supported(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Slice:
		return IsScalar(t.Elem())
	case reflect.Map:
		return t.Key().Kind() == reflect.String && IsScalar(t.Elem())
	default:
		return IsScalar(t)
	}
}

// IsScalar reports whether t is the type of one value, which one text can have.
func IsScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshalerType) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

// Key returns the name of the key of a field, which is that of its tag, or else its own in lower
// case. It is empty for a field that has none. The keys of an inline struct are those of the
// struct that it is in.
func Key(field reflect.StructField) (name string, inline bool) {
	name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	switch {
	case !field.IsExported() || name == "-":
		return "", false
	case slices.Contains(strings.Split(options, ","), "inline") && field.Type.Kind() == reflect.Struct:
		return "", true
	case name == "":
		return strings.ToLower(field.Name), false
	}
	return name, false
}

// Redacted is shown in place of a secret.
const Redacted = "[redacted]"

// LooksSecret reports whether a key that is not known may, by its name, be a secret's that was
// misspelt: its value is not shown.
func LooksSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

var secretWords = []string{"pass", "pwd", "secret", "token", "credential", "auth", "key"}
