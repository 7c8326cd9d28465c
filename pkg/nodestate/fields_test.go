package nodestate

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/fields"
)

// samples are values of the types that check their text.
func samples() fields.Samples {
	s := fields.Samples{}
	fields.Sample(s, device.ENIID("eni-0a1b2c3d4e5f60001"), "eni-0a1b2c3d4e5f60002")
	fields.Sample(s, device.MAC("02:00:00:00:00:01"), "02:00:00:00:00:02")
	fields.Sample(s, device.PCIAddress("0000:00:01.0"), "0000:00:02.0")
	fields.Sample(s, device.SubnetID("subnet-0a1b2c3d4e5f60001"), "subnet-0a1b2c3d4e5f60002")
	fields.Sample(s, device.ResourceName("intel.com/a"), "intel.com/b")
	fields.Sample(s, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
	fields.Sample(s, netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("10.0.0.2/24"))
	fields.Sample(s, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 1, time.UTC))
	fields.Sample(s, json.RawMessage(`{"a":1}`), json.RawMessage(`{"a":2}`))
	fields.Sample(s, Settings{"rings": "1"}, Settings{"rings": "2"})
	return s
}

// everyField shows that each field of a stored type is in its file, and comes back
// from there. Its writer calls written first.
func everyField[T any](t *testing.T, written func(T) T) {
	t.Run(reflect.TypeFor[T]().Name(), func(t *testing.T) {
		encoded := func(v T) []byte {
			data, err := json.Marshal(written(v))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		n := 0
		fields.Each(samples(), func(path string, base, other T) {
			if path == ".SchemaVersion" { // the writer's
				return
			}
			n++
			a, b := encoded(base), encoded(other)
			if bytes.Equal(a, b) {
				t.Errorf("%s is not in the file", path)
			}
			var back T
			if err := json.Unmarshal(b, &back); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if again := encoded(back); !bytes.Equal(b, again) {
				t.Errorf("%s is read back otherwise (-file +again):\n%s", path, cmp.Diff(string(b), string(again)))
			}
		})
		if n < 3 {
			t.Errorf("only %d fields", n)
		}
	})
}

// TestEveryFieldIsStored walks all types that are files of the contract.
func TestEveryFieldIsStored(t *testing.T) {
	everyField(t, Checkpoint.written)
	everyField(t, Inventory.written)
	everyField(t, func(a Attachment) Attachment { return a })
	everyField(t, func(r Restore) Restore { return r })
}

// TestSame: a difference in any field makes another file, and is not the same; an
// empty list and none, and a time in another zone, are one file.
func TestSame(t *testing.T) {
	fields.Each(samples(), func(path string, base, other Checkpoint) {
		if !base.Same(base) || base.Same(other) != (path == ".SchemaVersion") {
			t.Errorf("checkpoint: %s is not compared", path)
		}
	})
	fields.Each(samples(), func(path string, base, other Inventory) {
		if !base.Same(base) || base.Same(other) != (path == ".SchemaVersion" || path == ".UpdatedAt") {
			t.Errorf("inventory: %s is not compared", path)
		}
	})
	a := Checkpoint{Devices: []CheckpointDevice{{Device: Device{ENIID: "eni-0a1b2c3d4e5f60001"}}}}
	b := Checkpoint{SchemaVersion: SchemaVersion, OwnedResources: []device.ResourceName{}, Devices: []CheckpointDevice{a.Devices[0]}}
	b.Devices[0].Addresses, b.Devices[0].Prefixes = prefixes(), prefixes()
	if !a.Same(b) {
		t.Error("an empty list and none are not the same")
	}
}

// TestOtherVersionKeepsEveryField: each field of another version's checkpoint counts
// that this version understands, unless the other version may mean something else by it.
func TestOtherVersionKeepsEveryField(t *testing.T) {
	fields.Each(samples(), func(path string, base, other Checkpoint) {
		if path == ".SchemaVersion" || path == ".ConfirmedHash" {
			return
		}
		for _, c := range []*Checkpoint{&base, &other} {
			for i := range c.Devices {
				c.Devices[i].Phase, c.Devices[i].InterfaceName = PhaseReady, "eth1" // valid ones
			}
		}
		if path == ".Devices[0].Device.Phase" || path == ".Devices[0].Device.InterfaceName" {
			return
		}
		read := func(c Checkpoint) Checkpoint {
			data, err := json.Marshal(c.written())
			if err != nil {
				t.Fatal(err)
			}
			return ofOtherVersion(data)
		}
		if read(base).Same(read(other)) {
			t.Errorf("%s is lost", path)
		}
	})
}
