package nodestate

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Same says whether both would be written as the same file. It compares every field that is written.
func (c Checkpoint) Same(o Checkpoint) bool { return sameFile(c, o, Checkpoint.written) }

// Same says whether both would be written as the same file, but for UpdatedAt.
func (i Inventory) Same(o Inventory) bool {
	o.UpdatedAt = i.UpdatedAt
	return sameFile(i, o, Inventory.written)
}

// sameFile compares in memory first: values that are equal there make the same file. Values that differ there may still
// make one: an empty list and none, one time in two zones.
func sameFile[T any](a, b T, written func(T) T) bool {
	if reflect.DeepEqual(a, b) { //nolint:forbidigo // a list of fields would forget one
		return true
	}
	x, errX := json.Marshal(written(a))
	y, errY := json.Marshal(written(b))
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// written is the checkpoint as its file has it.
func (c Checkpoint) written() Checkpoint {
	c.SchemaVersion = SchemaVersion
	c.Devices = append([]CheckpointDevice{}, c.Devices...)
	for i := range c.Devices {
		c.Devices[i].fillLists()
	}
	c.OwnedResources = append([]device.ResourceName{}, c.OwnedResources...)
	return c
}

// written is the inventory as its file has it.
func (i Inventory) written() Inventory {
	i.SchemaVersion = SchemaVersion
	i.Problems = append([]Problem{}, i.Problems...)
	i.Devices = append([]Device{}, i.Devices...)
	for k := range i.Devices {
		i.Devices[k].fillLists()
	}
	return i
}

// fillLists has an empty list written as [], not null.
func (d *Device) fillLists() {
	if d.Addresses == nil {
		d.Addresses = []netip.Prefix{}
	}
	if d.Prefixes == nil {
		d.Prefixes = []netip.Prefix{}
	}
}
