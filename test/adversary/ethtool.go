package adversary

import (
	"encoding/hex"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolStruct describes one of ethtool's structures: the commands that read and write it, its size in
// words, and the words that are settings.
type ethtoolStruct struct {
	name         string
	get, set     uint32
	size, from   int
	to           int
	ask          []uint32
	alternatives []uint32 // values to try in each word; nil: near the present ones
}

// ethtoolStructs follow linux/ethtool.h, without words that the link negotiates.
var ethtoolStructs = []ethtoolStruct{
	{name: "rings", get: unix.ETHTOOL_GRINGPARAM, set: unix.ETHTOOL_SRINGPARAM, size: 9, from: 5, to: 9, alternatives: []uint32{64, 80, 128, 512}},
	{name: "channels", get: unix.ETHTOOL_GCHANNELS, set: unix.ETHTOOL_SCHANNELS, size: 9, from: 5, to: 9, alternatives: []uint32{1, 2}},
	{name: "coalesce", get: unix.ETHTOOL_GCOALESCE, set: unix.ETHTOOL_SCOALESCE, size: 23, from: 1, to: 23, alternatives: []uint32{20, 3, 100, 1}},
	{name: "message level", get: unix.ETHTOOL_GMSGLVL, set: unix.ETHTOOL_SMSGLVL, size: 2, from: 1, to: 2, alternatives: []uint32{1, 2}},
	{name: "wake-on-lan", get: unix.ETHTOOL_GWOL, set: unix.ETHTOOL_SWOL, size: 5, from: 2, to: 3, alternatives: []uint32{0, 1 << 5, 1}},
	{name: "private flags", get: unix.ETHTOOL_GPFLAGS, set: unix.ETHTOOL_SPFLAGS, size: 2, from: 1, to: 2, alternatives: []uint32{1, 0, 2}},
	{
		name: "rx-copybreak", get: unix.ETHTOOL_GTUNABLE, set: unix.ETHTOOL_STUNABLE, size: 5, from: 4, to: 5,
		ask: []uint32{1, 3, 4}, alternatives: []uint32{0, 200},
	},
	{name: "pause", get: unix.ETHTOOL_GPAUSEPARAM, set: unix.ETHTOOL_SPAUSEPARAM, size: 4, from: 1, to: 2, alternatives: []uint32{0, 1}},
	{name: "link mode", get: unix.ETHTOOL_GSET, set: unix.ETHTOOL_SSET, size: 11, from: 2, to: 3, alternatives: []uint32{0x0f, 0x03, 0x20}},
	{name: "flow hash of UDP", get: unix.ETHTOOL_GRXFH, set: unix.ETHTOOL_SRXFH, size: 48, from: 2, to: 3, ask: []uint32{2}, alternatives: []uint32{0x30, 0xf0}},
}

func ethtool(name string, data []uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&data[0])}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

func (s ethtoolStruct) read(name string) ([]uint32, error) {
	data := make([]uint32, s.size)
	data[0] = s.get
	copy(data[1:], s.ask)
	return data, ethtool(name, data)
}

func (s ethtoolStruct) change(name string) error {
	changed := false
	var refused error
	for i := s.from; i < s.to; i++ {
		for _, v := range s.alternatives {
			now, err := s.read(name)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCannot, err)
			}
			was := now[i]
			now[0], now[i] = s.set, v
			if was == v {
				continue
			}
			if err := ethtool(name, now); err != nil {
				refused = err
				continue
			}
			if after, err := s.read(name); err == nil && after[i] != was {
				changed = true
				break
			}
		}
	}
	if !changed {
		return errors.Join(fmt.Errorf("%w: the driver takes no other %s", ErrCannot, s.name), refused)
	}
	return nil
}

const featureWords = 8

// features are, for each word: available, wanted, active, never changed.
func features(name string) ([]uint32, error) {
	data := make([]uint32, 2+4*featureWords)
	data[0], data[1] = unix.ETHTOOL_GFEATURES, featureWords
	err := ethtool(name, data)
	return data[:2+4*min(data[1], featureWords)], err
}

// changeFeatures toggles each feature that the driver can change.
func changeFeatures(name string) error {
	now, err := features(name)
	if err != nil {
		return err
	}
	set := []uint32{unix.ETHTOOL_SFEATURES, now[1]}
	for w := 2; w < len(now); w += 4 {
		set = append(set, now[w], ^now[w+1])
	}
	return ethtool(name, set)
}

// rssTable sends all to the first queue.
func rssTable(name string) error {
	size := []uint32{unix.ETHTOOL_GRSSH, 0, 0, 0, 0, 0}
	if err := ethtool(name, size); err != nil || size[2] == 0 {
		return errors.Join(ErrCannot, err)
	}
	set := make([]uint32, 6+size[2])
	set[0], set[2] = unix.ETHTOOL_SRSSH, size[2]
	return ethtool(name, set)
}

func rssKey(name string) error {
	size := []uint32{unix.ETHTOOL_GRSSH, 0, 0, 0, 0, 0}
	if err := ethtool(name, size); err != nil || size[3] == 0 {
		return errors.Join(ErrCannot, err)
	}
	set := make([]uint32, 6+(size[3]+3)/4)
	set[0], set[2], set[3] = unix.ETHTOOL_SRSSH, ^uint32(0), size[3]
	for i := range set[6:] {
		set[6+i] = 0x01010101
	}
	return ethtool(name, set)
}

// rxRule steers UDP to port 4791 to the first queue (ntuple).
func rxRule(name string) error {
	set := make([]byte, 192)
	put := func(at int, v uint32) { copy(set[at:], unsafe.Slice((*byte)(unsafe.Pointer(&v)), 4)) }
	put(0, unix.ETHTOOL_SRXCLSRLINS)
	put(16, 2)                           // UDP_V4_FLOW
	set[16+4+10], set[16+4+11] = 18, 183 // destination port of the union's ethtool_tcpip4_spec
	set[16+76+10], set[16+76+11] = 255, 255
	put(176, 0)
	data := unsafe.Slice((*uint32)(unsafe.Pointer(&set[0])), len(set)/4)
	return ethtool(name, data)
}

// ethtoolState is all of ethtool's state of the link.
func ethtoolState(name string) map[string]string {
	out := map[string]string{}
	for _, s := range ethtoolStructs {
		if data, err := s.read(name); err == nil {
			out[s.name] = fmt.Sprint(data[s.from:s.to])
		}
	}
	if data, err := features(name); err == nil {
		var wanted []uint32
		for w := 2; w < len(data); w += 4 {
			wanted = append(wanted, data[w]&data[w+1])
		}
		out["features"] = fmt.Sprint(wanted)
	}
	size := []uint32{unix.ETHTOOL_GRSSH, 0, 0, 0, 0, 0}
	if ethtool(name, size) == nil && size[2] < 1<<16 && size[3] < 1<<16 {
		data := make([]uint32, 6+size[2]+(size[3]+3)/4)
		copy(data, size)
		if ethtool(name, data) == nil {
			out["rss"] = fmt.Sprint(data[4:])
		}
	}
	count := make([]byte, 192)
	*(*uint32)(unsafe.Pointer(&count[0])) = unix.ETHTOOL_GRXCLSRLCNT
	if ethtool(name, unsafe.Slice((*uint32)(unsafe.Pointer(&count[0])), 48)) == nil {
		out["rules"] = hex.EncodeToString(count[184:188])
	}
	return out
}
