package guest

import (
	"errors"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

func TestLedger(t *testing.T) {
	eni := func(id string, index int) ENI { return ENI{ID: device.ENIID(id), Index: index} }
	a, b := eni("eni-0000000a", 1), eni("eni-0000000b", 2)
	for _, tt := range []struct {
		name  string
		setUp []ENI // in slot0, slot1 …
		do    func(l ledger) error
		want  string
	}{
		{"free slot and index", []ENI{a}, func(l ledger) error { return l.attach(b, "slot1") }, ""},
		{"taken slot", []ENI{a}, func(l ledger) error { return l.attach(b, "slot0") }, "slot slot0 has eni-0000000a"},
		{"taken index", []ENI{a}, func(l ledger) error { return l.attach(eni("eni-0000000c", 1), "slot1") }, "device index 1 is that of eni-0000000a"},
		{"the primary's index", nil, func(l ledger) error { return l.attach(eni("eni-0000000c", 0), "slot0") }, "device index 0"},
		{"attached elsewhere", []ENI{a}, func(l ledger) error { return l.attach(a, "slot1") }, "in slot slot0 already"},
		{"not attached", []ENI{a}, func(l ledger) error { return l.detach(b.ID) }, "not attached"},
		{"detached twice", []ENI{a}, func(l ledger) error { return errors.Join(l.detach(a.ID), l.detach(a.ID)) }, "being detached already"},
		{"slot not free yet", []ENI{a}, func(l ledger) error { return errors.Join(l.detach(a.ID), l.attach(b, "slot0")) }, "slot slot0 has"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := ledger{}
			for i, e := range tt.setUp {
				Must(t, l.attach(e, "slot"+string(rune('0'+i))))
			}
			got := ""
			if err := tt.do(l); err != nil {
				got = err.Error()
			}
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("error %q, want %q", got, tt.want)
			}
		})
	}
}
