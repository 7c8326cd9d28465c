package steps_test

import (
	"testing"
	"unsafe"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

// deep uses at least so many KiB of the stack.
//
//go:noinline
func deep(kib int) byte {
	var frame [1 << 10]byte
	if kib > 0 {
		frame[kib%len(frame)] = deep(kib - 1)
	}
	return frame[0]
}

func TestGrowStack(t *testing.T) {
	moved := func(prepare func()) bool {
		var on byte
		prepare()
		before := uintptr(unsafe.Pointer(&on))
		deep(64)
		return before != uintptr(unsafe.Pointer(&on))
	}
	for _, c := range []struct {
		name    string
		prepare func()
		want    bool
	}{
		{"with a stack that has grown", func() { steps.GrowStack(0) }, false},
		{"without", func() {}, true},
	} {
		got := make(chan bool)
		go func() { got <- moved(c.prepare) }() // a stack of its own
		if got := <-got; got != c.want {
			t.Errorf("%s: the stack was moved: %v, want %v", c.name, got, c.want)
		}
	}
}
