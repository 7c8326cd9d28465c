package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const sriovNet = device.ResourceName("intel.com/sriov_net")

func wishes(m nodestate.OfferMode) *Wish { return &Wish{Mode: m, Known: true} }

// offerNode is at rest in the mode, with ENI 1 as intel.com/sriov_net.
func offerNode(t *testing.T, wish *Wish) (*testNode, *fakeOffer) {
	t.Helper()
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: "+sriovNet.String())
	f := n.offers(wish)
	n.settle()
	return n, f
}

func (n *testNode) state() view.OfferState { return n.views[len(n.views)-1].Offer.State }

func (n *testNode) owned() []device.ResourceName { return n.daemon.files.Checkpoint.OwnedResources }

func (n *testNode) content() string {
	b, err := os.ReadFile(n.path("pcidp/config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	n.must(err)
	return string(b)
}

// settleMode settles until the state is the wanted one.
func (n *testNode) settleMode(want view.OfferState) {
	n.Helper()
	for range 20 {
		if n.settleAfter(40 * time.Second); n.state() == want {
			return
		}
	}
	n.Fatalf("state %q, want %q: %+v", n.state(), want, n.views[len(n.views)-1].Offer)
}

// TestFreshOffer: a node without a device plugin gets no config for one, and no word about it.
func TestFreshOffer(t *testing.T) {
	n, f := offerNode(t, wishes(nodestate.OfferDevicePlugin))
	if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(1)}) || n.state() != view.OfferOffered {
		t.Errorf("offered %v, state %q, problems %q", got, n.state(), n.reasons())
	}
	if c := n.content(); c != "" {
		t.Errorf("a config was written: %s", c)
	}
	n.restarted(0, "%d restarts")
	sets, writes := f.sets, len(n.logs.AllEntries())
	n.sync()
	if f.sets == sets || len(n.logs.AllEntries()) != writes {
		t.Errorf("at rest %d lines are logged", len(n.logs.AllEntries())-writes)
	}
}

// TestTakeoverOrder: our entries stay in the config until the kubelet has each resource from the daemon, and the device
// plugin is restarted after that.
func TestTakeoverOrder(t *testing.T) {
	wish := wishes(nodestate.OfferPCIDP)
	n, f := offerNode(t, wish)
	if f.sets > 0 || len(n.owned()) != 1 {
		t.Fatalf("pcidp: %d sets, owned %v", f.sets, n.owned())
	}
	restarts := len(n.restarts.wanted)
	wish.Mode, f.away = nodestate.OfferDevicePlugin, true
	n.settle()
	if len(n.owned()) != 1 || n.state() != view.OfferWaiting || !slices.Equal(f.healthy(), []device.PCIAddress{pci(1)}) {
		t.Errorf("not registered: owned %v, state %q, offered %v", n.owned(), n.state(), f.healthy())
	}
	n.restarted(restarts, "%d restarts before the kubelet has the resource")
	f.away = false
	n.settleMode(view.OfferOffered)
	if len(n.owned()) > 0 || strings.Contains(n.content(), "sriov_net") {
		t.Errorf("owned %v, config %s", n.owned(), n.content())
	}
	n.restarted(restarts+1, "%d restarts, want one for the takeover")
	if want, asked := n.restarts.last.Devices[sriovNet]; asked {
		t.Errorf("the device plugin is to offer %v", want)
	}
	changed := 0
	for _, v := range n.views {
		if v.Did.Offered == nodestate.OfferDevicePlugin {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("the change was told %d times", changed)
	}
}

// TestOfferFollowsNodeENIs: a NodeENI changes its own devices, and neither the config nor the device plugin.
func TestOfferFollowsNodeENIs(t *testing.T) {
	n, f := offerNode(t, wishes(nodestate.OfferDevicePlugin))
	n.declare("b", 2, "dpdkResourceName: intel.com/b")
	n.settle()
	if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(2), pci(1)}) {
		t.Errorf("offered %v", got)
	}
	f.unsent = true
	n.undeclare("b")
	n.sync()
	n.sync()
	if d := f.devices[0]; d.ID != pci(2) || d.Healthy() || len(n.daemon.files.Inventory.Devices) != 2 {
		t.Errorf("%+v, rows %q", d, n.rows())
	}
	f.unsent = false
	n.settle()
	if len(n.daemon.files.Inventory.Devices) != 1 || !slices.Equal(f.names, []device.ResourceName{sriovNet}) {
		t.Errorf("names %v, rows %q", f.names, n.rows())
	}
	n.restarted(0, "%d restarts")
}

// TestRemovalAwaitsKubelet: a device leaves only when podresources has it neither as allocatable nor as allocated, and
// its name stays served meanwhile.
func TestRemovalAwaitsKubelet(t *testing.T) {
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{}
	n.declare("a", 1, "dpdkResourceName: "+sriovNet.String())
	f := n.offers(wishes(nodestate.OfferDevicePlugin))
	n.settle()
	list := map[device.ResourceName][]device.PCIAddress{sriovNet: {pci(1)}}
	n.kubelet.devices = inventory.Kubelet{Allocatable: list, Held: list,
		Allocated: map[device.PCIAddress][]inventory.Container{pci(1): {{Namespace: "x", Pod: "p", Container: "c"}}}}
	n.undeclare("a")
	served := func(step string) {
		t.Helper()
		n.syncAfter(time.Second)
		n.syncAfter(time.Second)
		if len(f.devices) != 1 || f.devices[0].Healthy() || !slices.Equal(f.names, []device.ResourceName{sriovNet}) {
			t.Errorf("%s: names %v, devices %+v, rows %q", step, f.names, f.devices, n.rows())
		}
	}
	served("the kubelet still offers it")
	n.kubelet.devices.Allocatable = nil
	served("a pod holds it")
	n.kubelet.err = errors.New("down")
	served("the kubelet cannot be asked")
	n.restartOffering(f, wishes(nodestate.OfferDevicePlugin))
	served("another daemon")
	n.kubelet.err, n.kubelet.devices = nil, inventory.Kubelet{}
	n.settleAfter(time.Second)
	if len(f.names)+len(n.daemon.files.Inventory.Devices) > 0 {
		t.Errorf("names %v, rows %q", f.names, n.rows())
	}
}

// TestNothingIsAddedUnasked: while the kubelet cannot be asked, what is offered stays, and a new device waits.
func TestNothingIsAddedUnasked(t *testing.T) {
	n := newNode(t, 1, 2)
	n.kubelet = &fakeKubelet{}
	n.declare("a", 1, "dpdkResourceName: "+sriovNet.String())
	f := n.offers(wishes(nodestate.OfferDevicePlugin))
	n.settle()
	n.kubelet.err = errors.New("down")
	n.declare("b", 2, "dpdkResourceName: "+sriovNet.String())
	n.settle()
	if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(1)}) || !slices.Contains(n.reasons(), string(reason.KubeletUnreadable)) {
		t.Errorf("offered %v, problems %q", got, n.reasons())
	}
	n.kubelet.err = fmt.Errorf("list: %w", inventory.ErrNoPods) // a node's first pod must get its device
	n.settle()
	if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(1), pci(2)}) {
		t.Errorf("offered %v", got)
	}
	asked := n.kubelet.asked
	n.sync()
	if n.kubelet.asked != asked {
		t.Error("the kubelet is asked at rest")
	}
}
