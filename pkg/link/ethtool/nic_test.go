package ethtool

import (
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nic is a driver that has every setting. It checks the sizes that it is given, as the
// kernel does, since no NIC of a test machine has all of them.
type nic struct {
	t      *testing.T
	groups map[uint32][]uint32 // the words of a structure behind the command, by the command that reads it

	mode     []uint32 // 12 words, and three masks of two words
	features []uint32 // the wanted ones, by word; all of them can be changed
	stamps   []uint32

	hash  uint32
	table []uint32
	key   []byte
	flows map[uint32]uint64
	rules map[uint32]flowRule

	refuse map[uint32]error // by command
	ignore map[uint32]bool  // commands that are taken without effect
	onSet  func(cmd uint32) // before a command has its effect
	writes []uint32         // the commands that change something
}

const (
	nicQueues = 4
	nicMasks  = 2
)

func newNIC(t *testing.T) *nic {
	n := &nic{
		t: t, groups: map[uint32][]uint32{}, mode: make([]uint32, modeHeader+3*nicMasks), features: []uint32{0xf0, 0x1}, stamps: []uint32{0, 1, 2},
		hash: 1, table: evenTable(8, nicQueues), key: []byte{1, 2, 3, 4, 5, 6}, flows: map[uint32]uint64{1: 0x30, 2: 0x30, 5: 0x30},
		rules: map[uint32]flowRule{7: {flow: 1, cookie: 2, location: 7}}, refuse: map[uint32]error{}, ignore: map[uint32]bool{}, onSet: func(uint32) {},
	}
	for _, g := range groups {
		words := make([]uint32, g.words)
		for i := range g.n {
			words[g.from+i] = uint32(10 + i)
		}
		n.groups[n.groupKey(g.get, g.ask)] = words
	}
	n.groups[unix.ETHTOOL_GPAUSEPARAM][1] = 0
	n.mode[modeSpeed], n.mode[modeDuplex], n.mode[modeHeader+nicMasks] = 1000, 1|1<<modeAutoneg, 0x20
	n.mode[modeMDIX] = nicMasks << masksShift
	return n
}

// groupKey tells the tunables apart, which have one command.
func (n *nic) groupKey(get uint32, ask []uint32) uint32 {
	if len(ask) > 0 {
		return get | ask[0]<<16
	}
	return get
}

func (n *nic) device() Device { return Device{Name: "eth1", driver: n.call} }

func (n *nic) call(request uintptr, data unsafe.Pointer) error {
	if request != unix.SIOCETHTOOL {
		return n.timestamps(request, unsafe.Slice((*uint32)(data), 3))
	}
	cmd := *(*uint32)(data)
	if err := n.refuse[cmd]; err != nil {
		return err
	}
	for _, g := range groups {
		if cmd != g.get && cmd != g.set {
			continue
		}
		words := unsafe.Slice((*uint32)(data), g.words)
		key := n.groupKey(g.get, nil)
		if len(g.ask) > 0 {
			key = n.groupKey(g.get, words[1:2])
		}
		n.move(cmd, cmd == g.set, words[1:], n.groups[key][1:])
		if cmd == g.get && len(g.ask) > 0 {
			copy(words[1:], []uint32{key >> 16, tunableU32, 4})
		}
		return nil
	}
	return n.large(cmd, data)
}

// move copies the caller's words to the nic's, or back.
func (n *nic) move(cmd uint32, set bool, caller, own []uint32) {
	if !set {
		copy(caller, own)
		return
	}
	if n.changes(cmd) {
		copy(own, caller)
	}
}

// changes notes a command, and says whether it has an effect.
func (n *nic) changes(cmd uint32) bool {
	n.writes = append(n.writes, cmd)
	if n.ignore[cmd] {
		return false
	}
	n.onSet(cmd)
	return true
}

func (n *nic) timestamps(request uintptr, words []uint32) error {
	if request == unix.SIOCSHWTSTAMP {
		copy(n.stamps, words)
	}
	copy(words, n.stamps)
	return nil
}

// large are the structures of variable size.
func (n *nic) large(cmd uint32, data unsafe.Pointer) error {
	switch cmd {
	case unix.ETHTOOL_GLINKSETTINGS, unix.ETHTOOL_SLINKSETTINGS:
		head := unsafe.Slice((*uint32)(data), modeHeader)
		if masks := int(int8(head[modeMDIX] >> masksShift)); masks != nicMasks {
			clear(head[1:])
			head[modeMDIX] = uint32(256-nicMasks) << masksShift
			return nil
		}
		n.move(cmd, cmd == unix.ETHTOOL_SLINKSETTINGS, unsafe.Slice((*uint32)(data), len(n.mode))[1:], n.mode[1:])
		return nil
	case unix.ETHTOOL_GFEATURES, unix.ETHTOOL_SFEATURES:
		return n.featureWords(cmd, data)
	case unix.ETHTOOL_GRSSH, unix.ETHTOOL_SRSSH:
		return n.rss(cmd, data)
	}
	return n.flow(cmd, (*rxnfc)(data))
}

func (n *nic) featureWords(cmd uint32, data unsafe.Pointer) error {
	size := (*[2]uint32)(data)
	if cmd == unix.ETHTOOL_GFEATURES {
		words := unsafe.Slice((*[4]uint32)(unsafe.Add(data, 8)), size[1])
		for i := range n.features {
			words[i] = [4]uint32{^uint32(0), n.features[i], n.features[i], 0}
		}
		size[1] = uint32(len(n.features))
		return nil
	}
	if int(size[1]) != len(n.features) {
		return unix.EINVAL
	}
	if n.changes(cmd) {
		for i, w := range unsafe.Slice((*[2]uint32)(unsafe.Add(data, 8)), size[1]) {
			n.features[i] = n.features[i]&^w[0] | w[1]
		}
	}
	return nil
}

func (n *nic) rss(cmd uint32, data unsafe.Pointer) error {
	head := unsafe.Slice((*uint32)(data), rssHeader)
	if cmd == unix.ETHTOOL_GRSSH {
		if head[rssIndirect] == uint32(len(n.table)) && head[rssKey] == uint32(len(n.key)) {
			copy(unsafe.Slice((*uint32)(data), rssHeader+len(n.table))[rssHeader:], n.table)
			copy(unsafe.Slice((*byte)(data), 4*(rssHeader+len(n.table))+len(n.key))[4*(rssHeader+len(n.table)):], n.key)
		} else if head[rssIndirect]+head[rssKey] != 0 {
			return unix.EINVAL
		}
		head[rssIndirect], head[rssKey], head[rssHash] = uint32(len(n.table)), uint32(len(n.key)), n.hash
		return nil
	}
	if !n.changes(cmd) {
		return nil
	}
	size := 0
	switch head[rssIndirect] {
	case rssSameTable:
	case 0:
		n.table = evenTable(len(n.table), nicQueues)
	default:
		size = int(head[rssIndirect])
		n.table = slices.Clone(unsafe.Slice((*uint32)(data), rssHeader+size)[rssHeader:])
	}
	if head[rssKey] > 0 {
		n.key = slices.Clone(unsafe.Slice((*byte)(data), 4*(rssHeader+size)+int(head[rssKey]))[4*(rssHeader+size):])
	}
	if function := head[rssHash] & 0xff; function != rssSameHash {
		n.hash = function
	}
	return nil
}

// flow are the commands on struct ethtool_rxnfc.
func (n *nic) flow(cmd uint32, req *rxnfc) error {
	hashed, known := n.flows[req.flow]
	rule, there := n.rules[req.rule.location]
	switch cmd {
	case unix.ETHTOOL_GRXFH:
		req.data = hashed
		if !known {
			return unix.EINVAL
		}
	case unix.ETHTOOL_SRXFH:
		if n.changes(cmd) {
			n.flows[req.flow] = req.data
		}
	case unix.ETHTOOL_GRXCLSRLCNT:
		req.count = uint32(len(n.rules))
	case unix.ETHTOOL_GRXCLSRLALL:
		locations := unsafe.Slice(&req.location, req.count)
		for at := range n.rules {
			locations[0], locations = at, locations[1:]
		}
	case unix.ETHTOOL_GRXCLSRULE:
		req.rule = rule
	case unix.ETHTOOL_SRXCLSRLINS:
		if n.changes(cmd) {
			n.rules[req.rule.location] = req.rule
		}
	case unix.ETHTOOL_SRXCLSRLDEL:
		if !there {
			return unix.ENOENT
		}
		if n.changes(cmd) {
			delete(n.rules, req.rule.location)
		}
	default:
		n.t.Errorf("a command that no driver has: %#x", cmd)
		return unix.EOPNOTSUPP
	}
	return nil
}
