package decode

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Section fills target, a pointer to a configuration struct with its defaults, from section, the
// decoded form of its part of a YAML file. A nil section leaves the defaults.
//
// It is strict: a key that the struct does not have is an error, and so is a value of another
// type. A string is read as [Line] reads it, since that is all that the environment has. The
// error joins one *driver.ConfigError for each key that is wrong, with its path below the
// section.
func Section(target any, section map[string]any) error {
	v := reflect.ValueOf(target)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		if len(section) == 0 {
			return nil
		}
		return fmt.Errorf("%w: the configuration is %T, and has no keys", driver.ErrInvalid, target)
	}
	var d decoder
	d.fields("", v.Elem(), section)
	return errors.Join(d.errs...)
}

type decoder struct{ errs []error }

func (d *decoder) bad(key, value, problem, hint string) {
	d.errs = append(d.errs, &driver.ConfigError{Key: key, Value: value, Problem: oneLine(problem), Hint: oneLine(hint)})
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// fields fills the struct v.
func (d *decoder) fields(path string, v reflect.Value, section map[string]any) {
	known := make(map[string]reflect.Value)
	keysOf(v, known)
	for _, name := range slices.Sorted(maps.Keys(section)) {
		key := name
		if path != "" {
			key = path + "." + name
		}
		if field, ok := known[name]; ok {
			d.value(key, field, reflect.ValueOf(section[name]))
			continue
		}
		value := plain(reflect.ValueOf(section[name]))
		if LooksSecret(name) && value != "" {
			value = Redacted
		}
		d.bad(key, value, "unknown key", "known are "+strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
}

// keysOf collects the fields of v by the names of their keys.
func keysOf(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name, inline := Key(v.Type().Field(i))
		if inline {
			keysOf(v.Field(i), into)
		} else if name != "" {
			into[name] = v.Field(i)
		}
	}
}

// value sets v to what from has.
func (d *decoder) value(key string, v, from reflect.Value) {
	for from.Kind() == reflect.Interface {
		from = from.Elem()
	}
	if !from.IsValid() {
		return // a key without a value is as if it were not there
	}
	if from.Type() == v.Type() {
		v.Set(from)
		return
	}
	if from.Kind() == reflect.String && Supported(v.Type()) {
		set, problem, hint := Line(v.Type(), from.String())
		if problem != "" {
			d.bad(key, shown(v, from), problem, hint)
			return
		}
		v.Set(set)
		return
	}
	switch kind := v.Kind(); {
	case kind == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(key, v.Elem(), from)
	case kind == reflect.Struct && !IsScalar(v.Type()):
		section, ok := from.Interface().(map[string]any)
		if !ok {
			d.bad(key, plain(from), "want a map of keys", "")
			return
		}
		d.fields(key, v, section)
	case kind == reflect.Slice:
		d.list(key, v, from)
	case kind == reflect.Map:
		d.mapping(key, v, from)
	default:
		d.scalar(key, v, from)
	}
}

func (d *decoder) list(key string, v, from reflect.Value) {
	if from.Kind() != reflect.Slice && from.Kind() != reflect.Array {
		d.bad(key, shown(v, from), "want a list", "")
		return
	}
	list := reflect.MakeSlice(v.Type(), from.Len(), from.Len())
	for i := range from.Len() {
		d.value(fmt.Sprintf("%s[%d]", key, i), list.Index(i), from.Index(i))
	}
	v.Set(list)
}

func (d *decoder) mapping(key string, v, from reflect.Value) {
	if from.Kind() != reflect.Map || from.Type().Key().Kind() != reflect.String {
		d.bad(key, shown(v, from), "want a map of keys", "")
		return
	}
	m := reflect.MakeMap(v.Type())
	for name, value := range from.Seq2() {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(key+"."+name.String(), element, value)
		m.SetMapIndex(name.Convert(v.Type().Key()), element)
	}
	v.Set(m)
}

// scalar sets v to a number or a truth value.
func (d *decoder) scalar(key string, v, from reflect.Value) {
	if v.Type() == durationType {
		if isNumber(from) && from.IsZero() {
			v.SetInt(0)
			return
		}
		d.bad(key, shown(v, from), "want a duration with its unit, such as 500ms or 10s", "")
		return
	}
	want := "a string"
	switch {
	case IsScalar(v.Type()) && v.Kind() == reflect.Struct: // one that reads a text itself
	case v.Kind() == reflect.Bool:
		if want = "true or false"; from.Kind() == reflect.Bool {
			v.SetBool(from.Bool())
			return
		}
	case v.CanInt(), v.CanUint(), v.CanFloat():
		if want = "a number"; isNumber(from) && setNumber(v, from) {
			return
		}
	}
	d.bad(key, shown(v, from), "want "+want, "")
}

func isNumber(v reflect.Value) bool { return v.CanInt() || v.CanUint() || v.CanFloat() }

// setNumber reports whether v can have the value of from, and then sets it.
func setNumber(v, from reflect.Value) bool {
	if v.CanFloat() {
		v.SetFloat(from.Convert(reflect.TypeFor[float64]()).Float())
		return true
	}
	if from.CanFloat() {
		f := from.Float()
		if f != math.Trunc(f) || math.Abs(f) >= 1<<53 {
			return false
		}
		from = reflect.ValueOf(int64(f))
	}
	to := from.Convert(v.Type())
	back := to.Convert(from.Type())
	negative := from.CanInt() && from.Int() < 0
	if !back.Equal(from) || negative != (to.CanInt() && to.Int() < 0) {
		return false
	}
	v.Set(to)
	return true
}

// shown is what an error about v shows of its value.
func shown(v, from reflect.Value) string {
	t := v.Type()
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t == secretType {
		return Redacted
	}
	return plain(from)
}

// plain shows a value that is not composed, and of others only what they are: they may hold
// secrets.
func plain(v reflect.Value) string {
	for v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Invalid:
		return ""
	case reflect.Map:
		return "(a map)"
	case reflect.Slice, reflect.Array:
		return "(a list)"
	}
	return fmt.Sprint(v.Interface())
}
