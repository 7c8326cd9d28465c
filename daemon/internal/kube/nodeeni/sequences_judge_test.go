package nodeeni

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

func (s *sequence) sync() {
	s.note("Sync")
	path := filepath.Join(s.dir, "config.json")
	before, _ := os.ReadFile(path) // absent at first
	unknown := s.told == nil || s.toldNode == nil || !s.toldNode.node
	if !unknown {
		s.look()
	}
	s.daemon.Sync(context.Background())
	s.now = s.now.Add(time.Second)
	after, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && before == nil {
		return
	}
	v := dpmodel.Judge(after, s.devices())
	switch {
	case err != nil || !v.Runs():
		s.failed("the device plugin would not run: %v, %+v", err, v)
	case !unknown:
		s.compare(before, v.Resources)
	case before != nil && !bytes.Equal(before, after), before == nil && len(v.Resources) > 0:
		s.failed("the config changed while nothing was known, from %s", before)
	}
}

// look notes the devices that the daemon is about to find gone.
func (s *sequence) look() {
	for name, o := range s.told {
		if slices.ContainsFunc(s.seen[name], func(e int) bool { return !slices.Contains(o.enis, e) }) {
			s.lost = s.now
		}
		if !o.broken {
			s.seen[name] = o.enis
		}
	}
}

// compare checks the config against the versions that the source got. An object that was never readable keeps everything;
// where an attachment has just gone, it may.
func (s *sequence) compare(before []byte, got pools) {
	labels := s.toldNode.labels
	want, may := implied(s.told, labels), pools{}
	unreadable, declared := map[device.PCIAddress]bool{}, map[device.PCIAddress]bool{}
	for i, name := range seqNames {
		o, told := s.told[name]
		declared[seqPCI(1+i)], declared[seqPCI(4+i)] = told, told
		if o.broken && (o.selector == "" || labels["ng"] == o.selector) {
			unreadable[seqPCI(1+i)], unreadable[seqPCI(4+i)] = true, true
		}
	}
	for resource, addrs := range dpmodel.Judge(before, s.devices()).Resources {
		for _, a := range addrs {
			if unreadable[a] {
				want[resource] = append(want[resource], a)
			}
			if len(unreadable) > 0 || !s.lost.IsZero() && s.now.Sub(s.lost) < 2*time.Minute {
				may[resource] = append(may[resource], a)
			}
		}
	}
	for resource, addrs := range want {
		for _, a := range addrs {
			if !slices.Contains(got[resource], a) {
				s.failed("%s of %s is missing", a, resource)
			}
		}
	}
	for resource, addrs := range got {
		for _, a := range addrs {
			switch {
			case slices.Contains(want[resource], a):
			case !slices.Contains(may[resource], a):
				s.failed("%s of %s is not wanted", a, resource)
			case len(unreadable) > 0 && declared[a]:
				s.lost = s.now // its grace begins when all can be read
			}
		}
	}
}

func (s *sequence) devices() []dpmodel.Device {
	var all []dpmodel.Device
	for e := range seqENIs + 1 {
		all = append(all, dpmodel.Device{Address: seqPCI(e), Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", VFID: -1, DefaultRoute: e == 0})
	}
	return all
}

// end mends all faults, lets time pass, and compares the config with the NodeENIs.
func (s *sequence) end() {
	for name, o := range s.truth.objects {
		o.broken = false
		s.truth.objects[name] = o
	}
	s.truth.node, s.up = true, true
	s.relist()
	for range 3 {
		s.sync()
		s.now = s.now.Add(2 * time.Minute)
	}
	content, err := os.ReadFile(filepath.Join(s.dir, "config.json"))
	if err != nil {
		s.failed("in the end: %v", err)
		return
	}
	want, got := implied(s.truth.objects, s.truth.labels), pools(dpmodel.Judge(content, s.devices()).Resources)
	if diff := cmp.Diff(want, got); diff != "" {
		s.failed("in the end the config differs from what the NodeENIs imply (-want +got):\n%s", diff)
	}
}
