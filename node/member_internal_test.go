package node

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
)

// Each field of the internal types reaches the one of the same name that users read.
func TestNoFieldIsForgotten(t *testing.T) {
	var m membership.Member
	fill(t, reflect.ValueOf(&m).Elem(), new(int))
	if diff := cmp.Diff(m, memberOf(m).internal()); diff != "" {
		t.Error(diff)
	}
	var members membership.Stats
	fill(t, reflect.ValueOf(&members).Elem(), new(int))
	sameText(t, members, membershipStatsOf(members), "Seq") // which the view has
	var links link.Stats
	fill(t, reflect.ValueOf(&links).Elem(), new(int))
	sameText(t, links, linkStatsOf(links))
}

// fill gives each field a value of its own.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(int64(*n), 0)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, n)
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}

// sameText compares the fields of two structs by name and printed value.
func sameText(t *testing.T, want, got any, except ...string) {
	t.Helper()
	text := func(of any) map[string]string {
		fields := make(map[string]string)
		v := reflect.ValueOf(of)
		for i := range v.NumField() {
			fields[v.Type().Field(i).Name] = fmt.Sprint(v.Field(i).Interface())
		}
		for _, name := range except {
			delete(fields, name)
		}
		return fields
	}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("%T: %s", got, diff)
	}
}
