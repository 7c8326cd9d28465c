package ethtool

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The receive side of ethtool: which queue a packet goes to.

// Words of struct ethtool_rxfh; indirection table and key follow.
const (
	rssIndirect = 2
	rssKey      = 3
	rssHash     = 4 // the function in the lowest byte, the input transformation in the next
	rssHeader   = 6
	// rssMost is more than any driver has, of each.
	rssMost = 1 << 16
)

// readRSS reads hash function, indirection table and key. A table as the kernel
// makes it itself is written as the number of its queues.
func (e Device) readRSS() (string, error) {
	size := make([]uint32, rssHeader)
	size[0] = unix.ETHTOOL_GRSSH
	if err := e.do(size); err != nil {
		return "", err
	}
	indirect, key := size[rssIndirect], size[rssKey]
	if indirect > rssMost || key > rssMost || indirect+key == 0 {
		return "", unix.EOPNOTSUPP
	}
	data := make([]uint32, rssHeader+int(indirect)+int(key+3)/4)
	data[0], data[rssIndirect], data[rssKey] = unix.ETHTOOL_GRSSH, indirect, key
	if err := e.do(data); err != nil {
		return "", err
	}
	table := data[rssHeader : rssHeader+indirect]
	written := "even " + numbers([]uint32{queues(table)})
	if !slices.Equal(table, evenTable(len(table), queues(table))) {
		written = numbers(table)
	}
	secret := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data[rssHeader+indirect:]))), key)
	return fmt.Sprintf("%d/%s/%s", data[rssHash]&0xffff, written, hex.EncodeToString(secret)), nil
}

func queues(table []uint32) uint32 {
	if len(table) == 0 {
		return 0
	}
	return slices.Max(table) + 1
}

// evenTable is ethtool_rxfh_indir_default of the kernel.
func evenTable(size int, queues uint32) []uint32 {
	table := make([]uint32, size)
	for i := range table {
		table[i] = uint32(i) % queues
	}
	return table
}

// Values for "no change": a driver may refuse its present value as a new one.
const (
	rssSameTable = ^uint32(0)
	rssSameHash  = 0
)

func (e Device) writeRSS(want string) error {
	now, err := e.readRSS()
	if err != nil {
		return err
	}
	was, is := strings.Split(want, "/"), strings.Split(now, "/")
	if len(was) != len(is) {
		return fmt.Errorf("parse %q: not %d parts", want, len(is))
	}
	hash, err := parseNumbers(was[0], 1)
	if err != nil {
		return err
	}
	var key []byte
	if was[2] != is[2] {
		if key, err = hex.DecodeString(was[2]); err != nil {
			return err
		}
	}
	if was[0] == is[0] {
		hash[0] = hash[0]&^0xff | rssSameHash
	}
	if was[1] == is[1] {
		return e.setRSS(hash[0], rssSameTable, nil, key)
	}
	queues, even := strings.CutPrefix(was[1], "even ")
	if even { // the kernel's own, which goes with the number of channels, if it is that
		if err := e.setRSS(hash[0], 0, nil, key); err != nil {
			return err
		}
		if now, err := e.readRSS(); err != nil || now == want {
			return err
		}
	}
	table, err := parseNumbers(queues, 0)
	if err != nil {
		return err
	}
	if even {
		size := make([]uint32, rssHeader)
		size[0] = unix.ETHTOOL_GRSSH
		if err := e.do(size); err != nil {
			return err
		}
		table = evenTable(int(size[rssIndirect]), max(table[0], 1))
	}
	return e.setRSS(hash[0], uint32(len(table)), table, key)
}

func (e Device) setRSS(hash, size uint32, table []uint32, key []byte) error {
	data := make([]uint32, rssHeader, rssHeader+len(table)+(len(key)+3)/4)
	data[0], data[rssIndirect], data[rssKey], data[rssHash] = unix.ETHTOOL_SRSSH, size, uint32(len(key)), hash
	data = append(data, table...)
	padded := append(slices.Clone(key), 0, 0, 0)
	for i := 0; i < len(key); i += 4 {
		data = append(data, binary.NativeEndian.Uint32(padded[i:]))
	}
	return e.do(data)
}

// rxnfc is struct ethtool_rxnfc, with room for one location of a rule.
type rxnfc struct {
	cmd, flow uint32
	data      uint64
	rule      flowRule
	count     uint32
	location  uint32
}

// maxRules is more than any driver has.
const maxRules = 1 << 16

// flowRule is struct ethtool_rx_flow_spec.
type flowRule struct {
	flow     uint32
	match    [144]byte
	_        uint32
	cookie   uint64
	location uint32
	_        uint32
}

// hashedFlows are the kinds of packets whose hashed fields can be chosen: TCP, UDP,
// SCTP, AH and ESP over IPv4, over IPv6, and IP.
var hashedFlows = []uint32{1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x11}

// readHashFields reads RXH_* of each kind of packets that the driver knows.
func (e Device) readHashFields() (string, error) {
	var out []uint32
	for _, flow := range hashedFlows {
		req := rxnfc{cmd: unix.ETHTOOL_GRXFH, flow: flow}
		err := e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&req))
		if errors.Is(err, unix.EOPNOTSUPP) && flow == hashedFlows[0] {
			return "", err // the driver has none
		}
		if err == nil {
			out = append(out, flow, uint32(req.data))
		}
	}
	return numbers(out), nil
}

func (e Device) writeHashFields(want string) error {
	values, err := parseNumbers(want, 0)
	if err != nil {
		return err
	}
	var errs []error
	for pair := range slices.Chunk(values, 2) {
		now := rxnfc{cmd: unix.ETHTOOL_GRXFH, flow: pair[0]}
		if err := e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&now)); err != nil || len(pair) == 2 && uint32(now.data) == pair[1] {
			errs = append(errs, err)
			continue
		}
		set := rxnfc{cmd: unix.ETHTOOL_SRXFH, flow: pair[0], data: uint64(pair[len(pair)-1])}
		errs = append(errs, e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&set)))
	}
	return errors.Join(errs...)
}

// rules are the receive rules of the device (ntuple), by location.
func (e Device) rules() (map[uint32]string, error) {
	req := rxnfc{cmd: unix.ETHTOOL_GRXCLSRLCNT}
	if err := e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&req)); err != nil {
		return nil, err
	}
	found := map[uint32]string{}
	if req.count == 0 {
		return found, nil
	}
	all := make([]rxnfc, 1+min(req.count, maxRules)) // more than the locations after the first need
	all[0].cmd, all[0].count = unix.ETHTOOL_GRXCLSRLALL, min(req.count, maxRules)
	if err := e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&all[0])); err != nil {
		return nil, err
	}
	for _, at := range unsafe.Slice(&all[0].location, min(all[0].count, maxRules)) {
		one := rxnfc{cmd: unix.ETHTOOL_GRXCLSRULE}
		one.rule.location = at
		if err := e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&one)); err != nil {
			return nil, err
		}
		found[at] = hex.EncodeToString((*[unsafe.Sizeof(one.rule)]byte)(unsafe.Pointer(&one.rule))[:])
	}
	return found, nil
}

func (e Device) readRules() (string, error) {
	found, err := e.rules()
	var out []string
	for _, rule := range found {
		out = append(out, rule)
	}
	slices.Sort(out)
	return strings.Join(out, " "), err
}

func (e Device) writeRules(want string) error {
	now, err := e.rules()
	if err != nil {
		return err
	}
	var errs []error
	wanted := strings.Fields(want)
	for at, rule := range now {
		if !slices.Contains(wanted, rule) {
			req := rxnfc{cmd: unix.ETHTOOL_SRXCLSRLDEL}
			req.rule.location = at
			errs = append(errs, e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&req)))
			delete(now, at)
		}
	}
	for _, rule := range wanted {
		req := rxnfc{cmd: unix.ETHTOOL_SRXCLSRLINS}
		data, err := hex.DecodeString(rule)
		if err == nil && len(data) != int(unsafe.Sizeof(req.rule)) {
			err = fmt.Errorf("%d octets, not %d", len(data), unsafe.Sizeof(req.rule))
		}
		copy((*[unsafe.Sizeof(req.rule)]byte)(unsafe.Pointer(&req.rule))[:], data)
		if err != nil {
			errs = append(errs, fmt.Errorf("parse rule %q: %w", rule, err))
		} else if _, there := now[req.rule.location]; !there {
			errs = append(errs, e.ioctl(unix.SIOCETHTOOL, unsafe.Pointer(&req)))
		}
	}
	return errors.Join(errs...)
}
