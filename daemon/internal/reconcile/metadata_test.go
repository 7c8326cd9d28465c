package reconcile

import (
	"errors"
	"testing"
	"time"
)

func TestSlowMetadata(t *testing.T) {
	n := newNode(t, 1)
	n.imds.hold = make(chan struct{})
	n.declare("a", 1)
	if out := n.sync(); !out.Unsettled {
		t.Error("settled, though IMDS has not answered")
	}
	n.expect([]string{"a  pending"}, nil, nil)
	close(n.imds.hold)
	n.sync()
	n.expect([]string{"a eth1 ready"}, nil, nil)
	if n.imds.asked != 1 {
		t.Errorf("asked %d times, want once", n.imds.asked)
	}
}

func TestMetadataIsNotAskedForNothing(t *testing.T) {
	n := settledNode(t)
	before := n.imds.asked
	for range 5 {
		n.syncAfter(time.Second)
	}
	if n.imds.asked != before {
		t.Errorf("asked %d times in 5 s of a settled node", n.imds.asked-before)
	}
	n.syncAfter(metadataFresh)
	if n.imds.asked != before+1 {
		t.Error("not asked again after a while")
	}
	n.declare("b", 2)
	n.sync()
	n.syncAfter(metadataApart)
	if n.imds.asked != before+2 {
		t.Error("not asked again for a device that is not known yet")
	}
}

func TestMetadataBacksOff(t *testing.T) {
	n := newNode(t, 1)
	n.imds.err = errors.New("connection refused")
	n.declare("a", 1)
	for range 120 {
		n.sync()
		n.now = n.now.Add(time.Second)
	}
	// After 0, 1, 3, 7, 15, 31, 61, 91 s.
	if n.imds.asked != 8 {
		t.Errorf("asked %d times in two minutes, want 8", n.imds.asked)
	}
}
