// Package fields changes one field of a value after the other, at any depth, so that a test of all fields
// also covers fields that are added later.
package fields

import (
	"fmt"
	"reflect"
)

// Samples are two different values for types that need them, such as types with a text form of their own.
type Samples map[reflect.Type][2]any

// Sample adds the two values of one type.
func Sample[T any](s Samples, base, other T) { s[reflect.TypeFor[T]()] = [2]any{base, other} }

// Each calls f for each exported field of T, with a value in which all fields are set and one that differs
// in that field alone. A list has one element, which one more call removes, like a pointer's target. Each
// panics at a type without values.
func Each[T any](s Samples, f func(path string, base, other T)) {
	for i := 0; ; i++ {
		var base, other T
		b, o := filler{samples: s, change: -1}, filler{samples: s, change: i}
		b.fill(reflect.ValueOf(&base).Elem(), "")
		o.fill(reflect.ValueOf(&other).Elem(), "")
		if o.changed == "" {
			return
		}
		f(o.changed, base, other)
	}
}

// filler fills a value. It changes the place with the number change.
type filler struct {
	samples Samples
	change  int
	place   int
	changed string
}

func (f *filler) other(path string) bool {
	f.place++
	if f.place-1 != f.change {
		return false
	}
	f.changed = path
	return true
}

func (f *filler) fill(v reflect.Value, path string) {
	if pair, ok := f.samples[v.Type()]; ok {
		f.choose(v, path, pair[0], pair[1])
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.IsExported() {
				f.fill(v.Field(i), path+"."+t.Name)
			}
		}
	case reflect.Pointer:
		if !f.other(path) {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem(), path)
		}
	case reflect.Slice:
		if !f.other(path) {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			f.fill(v.Index(0), path+"[0]")
		}
	case reflect.Bool:
		f.choose(v, path, false, true)
	case reflect.String:
		f.choose(v, path, "x", "y")
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		f.choose(v, path, 1, 2)
	default:
		panic(fmt.Sprintf("%s: no values of %v", path, v.Type()))
	}
}

func (f *filler) choose(v reflect.Value, path string, base, other any) {
	if f.other(path) {
		base = other
	}
	v.Set(reflect.ValueOf(base).Convert(v.Type()))
}
