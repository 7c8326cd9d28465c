package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// The one subnet, in 198.18.0.0/15, which is for tests (RFC 2544). All nodes use it, since it ends on the node.
const (
	subnetID   = "subnet-10ca1000000000001"
	subnetCIDR = "198.18.0.0/24"
	vpcCIDR    = "198.18.0.0/16"
	router     = "198.18.0.1/24"
	// firstHost is the last byte of the first ENI's address.
	firstHost = 10
	maxENIs   = 15
)

type world struct {
	instance string
	enis     []eni
}

type eni struct {
	plug nstest.ENI
	fakeimds.ENI
}

func newWorld(node string, enis int) world {
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(node)))
	w := world{instance: "i-" + id[:17]}
	for i := 1; i <= enis; i++ {
		mac := fmt.Sprintf("02:%s:%s:%s:%s:%02x", id[0:2], id[2:4], id[4:6], id[6:8], i)
		w.enis = append(w.enis, eni{
			nstest.ENI{PCI: fmt.Sprintf("0000:ff:%02x.0", i), Name: fmt.Sprintf("veni%d", i), MAC: mac},
			fakeimds.ENI{
				ID: fmt.Sprintf("eni-%s%02x", id[:15], i), MAC: mac, DeviceIndex: i, SubnetID: subnetID, SubnetIPv4CIDR: subnetCIDR,
				VPCIPv4CIDRs: []string{vpcCIDR}, IPv4s: []string{fmt.Sprintf("198.18.0.%d", firstHost+i-1)},
			},
		})
	}
	return w
}

// metadata are the service's values. The primary is the default route's link, so never taken for another.
func (w world) metadata() fakeimds.State {
	primary := fakeimds.ENI{
		ID: "eni-" + w.instance[2:], MAC: "02:00:00:00:00:00", Primary: true, SubnetID: "subnet-10ca1000000000000", SubnetIPv4CIDR: "198.19.0.0/24",
		IPv4s: []string{"198.19.0.10"},
	}
	if routes, err := netlink.RouteList(nil, netlink.FAMILY_V4); err == nil {
		for _, r := range routes {
			if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
				primary.MAC = l.Attrs().HardwareAddr.String()
			}
		}
	}
	st := fakeimds.State{InstanceID: w.instance, ENIs: []fakeimds.ENI{primary}}
	for _, e := range w.enis {
		st.ENIs = append(st.ENIs, e.ENI)
	}
	return st
}

// build makes the links in the process's netns, and the sysfs tree in dir, after removing an earlier run's leftovers.
func (w world) build(dir string) (tree string, err error) {
	tree = filepath.Join(dir, "sys")
	if err := os.RemoveAll(tree); err != nil {
		return tree, err
	}
	vpc, err := newNetns()
	if err != nil {
		return tree, err
	}
	n, err := nstest.NewNodeIn(dir, vpc)
	if err != nil {
		return tree, err
	}
	for _, e := range w.enis {
		if err := n.Attach(e.plug); err != nil {
			return tree, err
		}
	}
	return tree, n.AddPeerAddress(router)
}

func newNetns() (path string, err error) {
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- fmt.Errorf("make netns: %w", err)
			return
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		path = fmt.Sprintf("/proc/self/fd/%d", fd)
		made <- err
	}()
	err = <-made
	return path, err
}
