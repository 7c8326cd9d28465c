// Package ethtool reads and restores the device settings of a link (ethtool(8)): channels,
// rings, offloads, receive rules and the like.
package ethtool

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// group is a structure of ethtool's ioctl (linux/ethtool.h) that one command reads and another writes. All of its
// fields that are settings are 32 bits wide and lie beside each other; a record has them as decimal numbers.
type group struct {
	name     string
	get, set uint32
	// words is the size of the structure, from the first setting and n their number.
	words, from, n int
	// ask are the words after the command: they select the part to read.
	ask []uint32
}

// groups are in the order in which a device is to get them: a change of the number of channels makes the rings anew.
var groups = []group{
	{name: "private flags", get: unix.ETHTOOL_GPFLAGS, set: unix.ETHTOOL_SPFLAGS, words: 2, from: 1, n: 1},
	{name: "channels", get: unix.ETHTOOL_GCHANNELS, set: unix.ETHTOOL_SCHANNELS, words: 9, from: 5, n: 4},
	{name: "rings", get: unix.ETHTOOL_GRINGPARAM, set: unix.ETHTOOL_SRINGPARAM, words: 9, from: 5, n: 4},
	{name: "coalesce", get: unix.ETHTOOL_GCOALESCE, set: unix.ETHTOOL_SCOALESCE, words: 23, from: 1, n: 22},
	{name: "pause", get: unix.ETHTOOL_GPAUSEPARAM, set: unix.ETHTOOL_SPAUSEPARAM, words: 4, from: 1, n: 3},
	{name: "rx-copybreak", get: unix.ETHTOOL_GTUNABLE, set: unix.ETHTOOL_STUNABLE, words: 5, from: 4, n: 1, ask: []uint32{1, tunableU32, 4}},
	{name: "tx-copybreak", get: unix.ETHTOOL_GTUNABLE, set: unix.ETHTOOL_STUNABLE, words: 5, from: 4, n: 1, ask: []uint32{2, tunableU32, 4}},
	{name: "wake-on-lan", get: unix.ETHTOOL_GWOL, set: unix.ETHTOOL_SWOL, words: 5, from: 2, n: 1},
	{name: "message level", get: unix.ETHTOOL_GMSGLVL, set: unix.ETHTOOL_SMSGLVL, words: 2, from: 1, n: 1},
}

const tunableU32 = 3 // ETHTOOL_TUNABLE_U32

// Device is the device of a link.
type Device struct {
	// FD is any socket in the link's netns, and Name the link's name there.
	FD   int
	Name string
	// driver answers in the kernel's place; nil outside tests.
	driver func(request uintptr, data unsafe.Pointer) error
}

// setting is a setting that is read and given back; read fails where the driver lacks it.
type setting struct {
	name  string
	read  func() (string, error)
	write func(want string) error
}

// settings are all that are read and given back, in order.
func (e Device) settings() []setting {
	all := make([]setting, 0, len(groups)+5)
	for _, g := range groups {
		all = append(all, setting{g.name, func() (string, error) { return e.readGroup(g) }, func(want string) error { return e.writeGroup(g, want) }})
	}
	return append(all,
		setting{"link mode", e.readMode, e.writeMode},
		setting{"features", e.readFeatures, e.writeFeatures},
		setting{"flow hash", e.readHashFields, e.writeHashFields},
		setting{"rss", e.readRSS, e.writeRSS},
		setting{"rules", e.readRules, e.writeRules},
		setting{"timestamps", e.readStamps, e.writeStamps},
	)
}

// Settings reads the device settings, as far as the driver has any. Error: ENODEV.
func (e Device) Settings() (nodestate.Settings, error) {
	out := nodestate.Settings{}
	for _, s := range e.settings() {
		value, err := s.read()
		switch {
		case err == nil:
			out[s.name] = value
		case errors.Is(err, unix.ENODEV):
			return nil, fmt.Errorf("read %s of link %s: %w", s.name, e.Name, err)
		}
	}
	return out, nil
}

// Restore gives the device the settings in want that differ from its own, and returns
// an error for each failure. It makes two passes, since one setting may change another.
func (e Device) Restore(want nodestate.Settings) (failed map[string]error) {
	for range 2 {
		failed = map[string]error{}
		changed := false
		for _, s := range e.settings() {
			was, recorded := want[s.name]
			if !recorded {
				continue
			}
			now, err := s.read()
			if err == nil && now != was {
				changed = true
				err = s.write(was)
				if now, again := s.read(); err == nil && (again != nil || now != was) {
					err = errors.Join(again, fmt.Errorf("it is %q: %w", now, ErrNotKept))
				}
			}
			if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // else a pod cannot have set it either
				failed[s.name] = fmt.Errorf("set it of link %s from %q to %q: %w", e.Name, now, was, err)
			}
		}
		if !changed {
			break
		}
	}
	return failed
}

// ErrNotKept means: the kernel has taken a value, and has another one.
var ErrNotKept = errors.New("the kernel takes the value, but does not keep it")

func (e Device) readGroup(g group) (string, error) {
	data, err := e.getGroup(g)
	if err != nil {
		return "", err
	}
	if g.get == unix.ETHTOOL_GPAUSEPARAM && data[g.from] != 0 { // both sides have agreed on the rest
		data[g.from+1], data[g.from+2] = 0, 0
	}
	return numbers(data[g.from : g.from+g.n]), nil
}

func (e Device) getGroup(g group) ([]uint32, error) {
	data := make([]uint32, g.words)
	data[0] = g.get
	copy(data[1:], g.ask)
	return data, e.do(data)
}

func (e Device) writeGroup(g group, want string) error {
	data, err := e.getGroup(g)
	if err != nil {
		return err
	}
	values, err := parseNumbers(want, g.n)
	if err != nil {
		return err
	}
	data[0] = g.set
	copy(data[g.from:], values)
	return e.do(data)
}

// do is SIOCETHTOOL; data begins with the command.
func (e Device) do(data []uint32) error { return e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&data[0])) }

func (e Device) ioctl(request uintptr, data unsafe.Pointer) error {
	if e.driver != nil {
		return e.driver(request, data)
	}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: data}
	copy(req.name[:unix.IFNAMSIZ-1], e.Name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.FD), request, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

func numbers(values []uint32) string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, strconv.FormatUint(uint64(v), 10))
	}
	return strings.Join(out, " ")
}

// parseNumbers is the reverse of numbers. Any number of them where n is 0.
func parseNumbers(s string, n int) ([]uint32, error) {
	var out []uint32
	for field := range strings.FieldsSeq(s) {
		v, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("parse %q: %w", s, err)
		}
		out = append(out, uint32(v))
	}
	if n != 0 && len(out) != n {
		return nil, fmt.Errorf("parse %q: not %d numbers", s, n)
	}
	return out, nil
}

// Words of struct ethtool_link_settings, and the shifts of the octets in them. Three
// masks of modes follow: supported, advertised, and the link partner's.
const (
	modeSpeed   = 1
	modeDuplex  = 2 // in the lowest octet
	modeAutoneg = 24
	modeMDIX    = 3 // the requested mode (eth_tp_mdix_ctrl)
	mdixShift   = 16
	masksShift  = 24 // the number of words of a mask, in the word of MDIX
	modeHeader  = 12
)

// getMode reads link settings, with the number of words of each mask, which the
// kernel tells as a negative number when it is asked for another.
func (e Device) getMode() (data []uint32, masks int, err error) {
	data = make([]uint32, modeHeader)
	data[0] = unix.ETHTOOL_GLINKSETTINGS
	if err := e.do(data); err != nil {
		return nil, 0, err
	}
	masks = -int(int8(data[modeMDIX] >> masksShift))
	if masks <= 0 {
		return nil, 0, unix.EOPNOTSUPP
	}
	data = make([]uint32, modeHeader+3*masks)
	data[0], data[modeMDIX] = unix.ETHTOOL_GLINKSETTINGS, uint32(masks)<<masksShift
	return data, masks, e.do(data)
}

// readMode reads whether speed and duplex are negotiated, which modes are offered,
// and the fixed speed and duplex, which are 0 when negotiated.
func (e Device) readMode() (string, error) {
	data, masks, err := e.getMode()
	if err != nil {
		return "", err
	}
	autoneg, speed, duplex := data[modeDuplex]>>modeAutoneg, data[modeSpeed], data[modeDuplex]&0xff
	if autoneg != 0 {
		speed, duplex = 0, 0
	}
	out := []uint32{autoneg, speed, duplex, data[modeMDIX] >> mdixShift & 0xff}
	return numbers(append(out, data[modeHeader+masks:modeHeader+2*masks]...)), nil
}

func (e Device) writeMode(want string) error {
	data, masks, err := e.getMode()
	if err != nil {
		return err
	}
	values, err := parseNumbers(want, 4+masks)
	if err != nil {
		return err
	}
	data[0] = unix.ETHTOOL_SLINKSETTINGS
	if values[0] == 0 {
		data[modeSpeed] = values[1]
		data[modeDuplex] = data[modeDuplex]&^0xff | values[2]
	}
	data[modeDuplex] = data[modeDuplex]&^(0xff<<modeAutoneg) | values[0]<<modeAutoneg
	data[modeMDIX] = data[modeMDIX]&^(0xff<<mdixShift) | values[3]<<mdixShift
	copy(data[modeHeader+masks:], values[4:])
	return e.do(data)
}

// maxFeatureWords is more than any kernel has.
const maxFeatureWords = 8

// getFeatures returns, for each word of features, masks of the changeable
// (available) and of the requested (wanted) ones.
func (e Device) getFeatures() (words []struct{ available, wanted, active, fixed uint32 }, err error) {
	var data struct {
		cmd, size uint32
		words     [maxFeatureWords]struct{ available, wanted, active, fixed uint32 }
	}
	data.cmd, data.size = unix.ETHTOOL_GFEATURES, maxFeatureWords
	if err := e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&data)); err != nil {
		return nil, err
	}
	return data.words[:min(data.size, maxFeatureWords)], nil
}

func (e Device) readFeatures() (string, error) {
	words, err := e.getFeatures()
	var out []uint32
	for _, w := range words {
		out = append(out, w.wanted&w.available)
	}
	return numbers(out), err
}

func (e Device) writeFeatures(want string) error {
	now, err := e.getFeatures()
	if err != nil {
		return err
	}
	values, err := parseNumbers(want, len(now))
	if err != nil {
		return err
	}
	data := []uint32{unix.ETHTOOL_SFEATURES, uint32(len(now))}
	for i, w := range now {
		data = append(data, w.available, values[i]&w.available)
	}
	return e.do(data)
}

// readStamps reads the hardware timestamping settings (struct hwtstamp_config): flags, transmit type, receive filter.
func (e Device) readStamps() (string, error) {
	data := make([]uint32, 3)
	err := e.ioctl(unix.SIOCGHWTSTAMP, unsafe.Pointer(&data[0]))
	return numbers(data), err
}

func (e Device) writeStamps(want string) error {
	data, err := parseNumbers(want, 3)
	if err != nil {
		return err
	}
	return e.ioctl(unix.SIOCSHWTSTAMP, unsafe.Pointer(&slices.Clone(data)[0]))
}
