package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestDump: an interrupted dump is repeated, but not for ever, and no other error is.
func TestDump(t *testing.T) {
	for name, tt := range map[string]struct {
		interrupted int
		err         error
		calls       int
		want        error
	}{
		"at once":             {0, nil, 1, nil},
		"after interruptions": {dumpTries - 1, nil, dumpTries, nil},
		"always interrupted":  {dumpTries + 1, nil, dumpTries, netlink.ErrDumpInterrupted},
		"another error":       {0, unix.EPERM, 1, unix.EPERM},
	} {
		calls := 0
		got, err := Dump(func() ([]int, error) {
			calls++
			if calls <= tt.interrupted {
				return []int{calls}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
			}
			return []int{calls}, tt.err
		})
		if calls != tt.calls || !errors.Is(err, tt.want) || len(got) != 1 || got[0] != calls {
			t.Errorf("%s: %d calls, %v, %v; want %d, %v, and the last list", name, calls, got, err, tt.calls, tt.want)
		}
	}
}

func TestNotFound(t *testing.T) {
	for _, err := range []error{netlink.LinkNotFoundError{}, unix.ENODEV, fmt.Errorf("set: %w", unix.ENODEV)} {
		if got := NotFound(err); !errors.Is(got, ErrNotFound) {
			t.Errorf("NotFound(%v) = %v", err, got)
		}
	}
	for _, err := range []error{nil, unix.EPERM} {
		if got := NotFound(err); got != err { //nolint:errorlint // the very same
			t.Errorf("NotFound(%v) = %v", err, got)
		}
	}
}

func TestPrefix(t *testing.T) {
	for _, text := range []string{"0.0.0.0/0", "10.0.0.5/24", "10.0.0.5/32", "::/0", "2001:db8::1/64", "fe80::1/128"} {
		p := netip.MustParsePrefix(text)
		if got, ok := Prefix(IPNet(p)); !ok || got != p {
			t.Errorf("%s there and back: %s, %v", text, got, ok)
		}
	}
	mapped := &net.IPNet{IP: net.ParseIP("10.0.0.5").To16(), Mask: net.CIDRMask(24, 32)}
	if got, ok := Prefix(mapped); !ok || got != netip.MustParsePrefix("10.0.0.5/24") {
		t.Errorf("an IPv4 address of 16 octets: %s, %v", got, ok)
	}
	for name, n := range map[string]*net.IPNet{
		"nil": nil, "no address": {Mask: net.CIDRMask(8, 32)}, "odd address": {IP: []byte{1, 2, 3}, Mask: net.CIDRMask(8, 32)},
		"no mask": {IP: net.IPv4zero}, "a mask with holes": {IP: net.IPv4(10, 0, 0, 0), Mask: net.IPv4Mask(255, 0, 255, 0)},
	} {
		if got, ok := Prefix(n); ok {
			t.Errorf("%s is the prefix %s", name, got)
		}
	}
}

func TestStacked(t *testing.T) {
	for kind, want := range map[string]bool{"": false, "veth": false, "dummy": false, "vlan": true, "macvlan": true, "ipvlan": true, "bond": true} {
		if got := Stacked(kind); got != want {
			t.Errorf("Stacked(%q) = %v", kind, got)
		}
	}
}

// rtattr is an attribute with its padding. A length of 0 is the right one.
func rtattr(typ, length uint16, value ...byte) []byte {
	if length == 0 {
		length = uint16(unix.SizeofRtAttr + len(value))
	}
	b := binary.NativeEndian.AppendUint16(nil, length)
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func TestAttributes(t *testing.T) {
	concat := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"none":            {nil, "[]"},
		"two, padded":     {concat(rtattr(1, 0, 7), rtattr(2, 0, 8, 9)), "[1:[7] 2:[8 9]]"},
		"nested flag":     {rtattr(unix.NLA_F_NESTED|3, 0, 1), "[3:[1]]"},
		"without value":   {rtattr(4, 0), "[4:[]]"},
		"no padding":      {rtattr(5, 0, 1)[:5], "[5:[1]]"},
		"too short":       {concat(rtattr(1, 0, 7), rtattr(2, 3, 8), rtattr(3, 0, 9)), "[1:[7]]"},
		"beyond the end":  {concat(rtattr(1, 0, 7), rtattr(2, 200, 8)), "[1:[7]]"},
		"a piece at last": {append(rtattr(1, 0, 7), 1, 2), "[1:[7]]"},
	} {
		got := []string{}
		Attributes(tt.in, func(attr uint16, value []byte) { got = append(got, fmt.Sprintf("%d:%v", attr, value)) })
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s: %v; want %s", name, got, tt.want)
		}
	}
}

// FuzzAttributes: no message makes it panic, or read behind its end.
func FuzzAttributes(f *testing.F) {
	f.Add(rtattr(1, 0, 7))
	f.Add(rtattr(2, 200, 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		Attributes(b, func(_ uint16, value []byte) { n += unix.SizeofRtAttr + len(value) })
		if n > len(b) {
			t.Errorf("%d octets of attributes in a message of %d", n, len(b))
		}
	})
}
