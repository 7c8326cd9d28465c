package nodeeni

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func seqENI(e int) device.ENIID      { return device.ENIID(fmt.Sprintf("eni-%017x", e)) }
func seqMAC(e int) device.MAC        { return device.MAC(fmt.Sprintf("02:00:00:00:00:%02x", e)) }
func seqPCI(e int) device.PCIAddress { return device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", e)) }

type pools map[string][]device.PCIAddress

func implied(objects map[string]clusterENI, labels map[string]string) pools {
	out := pools{}
	for _, o := range objects {
		if o.deleting || o.selector != "" && labels["ng"] != o.selector || o.resource == "" {
			continue
		}
		if _, err := device.ParseResourceName(o.resource); err != nil {
			continue
		}
		for _, e := range o.enis {
			out[o.resource] = append(out[o.resource], seqPCI(e))
		}
	}
	for _, addrs := range out {
		slices.Sort(addrs)
	}
	return out
}

// machine is the node's kernel: all ENIs are plugged in, and no pod uses any.
type machine struct{ up [seqENIs + 1]bool }

func (m *machine) ENIs(context.Context) ([]vpc.ENI, error) {
	var all []vpc.ENI
	for e := range seqENIs + 1 {
		all = append(all, vpc.ENI{
			ID: seqENI(e), MAC: seqMAC(e), DeviceIndex: e, Primary: e == 0, SubnetID: "subnet-00000000",
			SubnetCIDR: netip.MustParsePrefix("10.0.0.0/16"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/16")},
		})
	}
	return all, nil
}

func (m *machine) PCIAddresses() ([]device.PCIAddress, error) {
	var all []device.PCIAddress
	for e := range seqENIs + 1 {
		all = append(all, seqPCI(e))
	}
	return all, nil
}

func (m *machine) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	return sysfs.PCIFunction{Address: addr, Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", IOMMUGroup: -1, NUMANode: -1}, nil
}

func (m *machine) Links() ([]link.Link, error) {
	var all []link.Link
	for e := range seqENIs + 1 {
		all = append(all, link.Link{Index: 10 + e, Name: fmt.Sprintf("eth%d", e), MAC: seqMAC(e), MTU: 1500, Parent: seqPCI(e), Up: m.up[e]})
	}
	return all, nil
}

func (m *machine) SetUp(index int) error { m.up[index-10] = true; return nil }
func (m *machine) SetDown(int) error     { return errors.New("no link is to be taken from the kernel") }
func (m *machine) SetMTU(int, int) error { return errors.New("no MTU was asked for") }
func (m *machine) Clutter() (routing.Clutter, error) {
	return routing.Clutter{Defaults: routing.DefaultRoutes{{Index: 10, Family: syscall.AF_INET}}}, nil
}
func (m *machine) ClearRoutes(int) (routing.Cleared, error) {
	return routing.Cleared{}, errors.New("there are none")
}
func (m *machine) ClearAddress(int, netip.Prefix) error { return errors.New("there is none") }
func (m *machine) GiveBack(link.Functions, link.Link, nodestate.AttachedDevice) error {
	return errors.New("nothing was moved")
}
func (m *machine) Ethtool(string) (nodestate.Settings, error) { return nil, link.ErrNotFound }
func (m *machine) ForeignUse() (map[int]string, error)        { return nil, nil }

func (m *machine) EnsureSources([]routing.Source) (bool, error) { return false, nil }

type sequence struct {
	rnd     *rand.Rand
	dir     string
	now     time.Time
	machine machine
	daemon  *reconcile.Reconciler
	source  *Source

	truth cluster
	// up: the API server answers, and its watches are open.
	up bool
	// told and toldNode are the last versions that the source got; nil before.
	told     map[string]clusterENI
	toldNode *cluster
	// seen are each name's ENIs when the daemon last looked; lost is when it last found one gone.
	seen  map[string][]int
	lost  time.Time
	story []string
	fault string
}
