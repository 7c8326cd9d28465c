package reconcile

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestSameDeviceKnowsEveryField: a field that is added and not compared would
// never be written again once the rest of its row is settled.
func TestSameDeviceKnowsEveryField(t *testing.T) {
	fields := reflect.TypeFor[nodestate.Device]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		var a, b nodestate.Device
		v := reflect.ValueOf(&b).Elem().Field(i)
		switch v.Interface().(type) {
		case netip.Prefix:
			v.Set(reflect.ValueOf(netip.MustParsePrefix("10.0.0.0/8")))
		case []netip.Prefix:
			v.Set(reflect.ValueOf([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}))
		case nodestate.Settings:
			v.Set(reflect.ValueOf(nodestate.Settings{"rings": "1"}))
		case []string:
			v.Set(reflect.ValueOf([]string{"x"}))
		default:
			if v.CanInt() {
				v.SetInt(7)
			} else {
				v.SetString("x")
			}
		}
		if !sameDevice(a, a) || !sameDevice(b, b) || sameDevice(a, b) {
			t.Errorf("field %s is not compared", name)
		}
	}
}
