package reconcile

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestRollback: the daemon goes on until the device plugin is verified to serve the entries, and lets its connections
// linger then.
func TestRollback(t *testing.T) {
	wish := wishes(nodestate.OfferDevicePlugin)
	n, f := offerNode(t, wish)
	wish.Mode = nodestate.OfferPCIDP
	n.restarts.hold = make(chan struct{})
	n.settleAfter(time.Minute)
	if n.state() != view.OfferHandingBack || f.lingering || !slices.Equal(f.healthy(), []device.PCIAddress{pci(1)}) || !slices.Contains(n.owned(), sriovNet) {
		t.Errorf("state %q, lingering %t, offered %v, owned %v", n.state(), f.lingering, f.healthy(), n.owned())
	}
	close(n.restarts.hold)
	n.restarts.hold = nil
	n.settleMode("")
	m := n.daemon.files.Checkpoint.Offer
	if !f.lingering || len(m.Names) > 0 || m.Mode != "" || m.Lingering != "kubelet-1" {
		t.Errorf("lingering %t, memory %+v", f.lingering, m)
	}
	sets := f.sets
	n.undeclare("a")
	n.settleAfter(time.Minute)
	if len(f.healthy()) > 0 || f.sets != sets {
		t.Errorf("a lingering resource offers %v, %d sets", f.healthy(), f.sets-sets)
	}
	f.names = nil // the kubelet has hung up
	n.settle()
	if m := n.daemon.files.Checkpoint.Offer; m.Lingering != "" {
		t.Errorf("memory %+v", m)
	}
}

// TestTakeoverAwaitsKubelet: while the kubelet cannot be asked who has a device, a takeover leaves the config as it is, also if
// the device is still listed since an earlier takeover.
func TestTakeoverAwaitsKubelet(t *testing.T) {
	wish := wishes(nodestate.OfferDevicePlugin)
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{}
	n.declare("a", 1, "dpdkResourceName: "+sriovNet.String())
	n.offers(wish)
	n.settleMode(view.OfferOffered)
	wish.Mode = nodestate.OfferPCIDP
	n.settleMode("")
	n.kubelet.err = errors.New("no such socket")
	wish.Mode = nodestate.OfferDevicePlugin
	n.settleMode(view.OfferWaiting)
	if m := n.daemon.files.Checkpoint.Offer; !m.Changing || !slices.Contains(n.owned(), sriovNet) {
		t.Errorf("memory %+v, owned %v", m, n.owned())
	}
	n.kubelet.err = nil
	n.settleMode(view.OfferOffered)
	if m := n.daemon.files.Checkpoint.Offer; m.Changing || len(n.owned()) > 0 {
		t.Errorf("memory %+v, owned %v", m, n.owned())
	}
}

// TestOutlivedConnections: a daemon that starts while the kubelet still runs that lost the last daemon's lingering
// connections restarts the device plugin once, which they have dropped.
func TestOutlivedConnections(t *testing.T) {
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprintf("same kubelet %t", same), func(t *testing.T) {
			wish := wishes(nodestate.OfferDevicePlugin)
			n, f := offerNode(t, wish)
			wish.Mode = nodestate.OfferPCIDP
			n.settleMode("")
			restarts, want := len(n.restarts.wanted), 0
			if same {
				want = 1
			} else {
				f.identity = "kubelet-2"
			}
			n.now = n.now.Add(time.Hour)
			n.restartOffering(f, wish)
			for range 5 {
				n.settleAfter(time.Minute)
			}
			n.restarted(restarts+want, "%d restarts")
			if m := n.daemon.files.Checkpoint.Offer; m.Lingering != "" || f.sets > 0 && len(f.names) > 0 {
				t.Errorf("memory %+v, names %v", m, f.names)
			}
		})
	}
}

// TestKilledWhileChanging kills the daemon after each step of a change between the modes. The next one ends the change,
// and no step leaves a device without an offer.
func TestKilledWhileChanging(t *testing.T) {
	for _, to := range []nodestate.OfferMode{nodestate.OfferDevicePlugin, nodestate.OfferPCIDP} {
		for step := range 8 {
			t.Run(fmt.Sprintf("to %s, step %d", to, step), func(t *testing.T) {
				from := nodestate.OfferPCIDP
				if to == from {
					from = nodestate.OfferDevicePlugin
				}
				wish := wishes(from)
				n, f := offerNode(t, wish)
				offered := func() {
					t.Helper()
					if len(f.healthy()) == 0 && !slices.Contains(n.owned(), sriovNet) {
						t.Error("nobody offers the device")
					}
				}
				wish.Mode = to
				for range step {
					n.daemon.Sync(n.Context())
					n.now = n.now.Add(time.Second)
					offered()
				}
				n.restartOffering(f, wish)
				offered()
				end := view.OfferState("")
				if to == nodestate.OfferDevicePlugin {
					end = view.OfferOffered
				}
				n.settleMode(end)
				offered()
				if ours := len(n.owned()) == 1; ours != (to == nodestate.OfferPCIDP) {
					t.Errorf("owned %v, config %s", n.owned(), n.content())
				}
			})
		}
	}
}

// TestTakeoverRefused: an entry of people's that offers our resource or device keeps the mode as it is.
func TestTakeoverRefused(t *testing.T) {
	for name, entry := range map[string]string{
		"name":   `{"resourceName":"sriov_net","selectors":{"vendors":["8086"]}}`,
		"device": `{"resourceName":"mine","selectors":{"drivers":["ena"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			wish := wishes(nodestate.OfferPCIDP)
			n, f := offerNode(t, wish)
			n.write(`{"resourceList":[`+entry+`]}`, "pcidp/config.json")
			n.settleAfter(time.Minute)
			before := n.content()
			wish.Mode = nodestate.OfferDevicePlugin
			n.settleAfter(time.Minute)
			if n.state() != view.OfferRefused || f.sets > 0 || n.content() != before || !slices.Contains(n.reasons(), string(reason.OfferedTwice)) {
				t.Errorf("state %q, %d sets, problems %q, config %s", n.state(), f.sets, n.reasons(), n.content())
			}
			n.write(`{"resourceList":[{"resourceName":"mine","selectors":{"vendors":["8086"]}}]}`, "pcidp/config.json")
			n.settleMode(view.OfferOffered)
			if !strings.Contains(n.content(), `"mine"`) || len(f.healthy()) != 1 {
				t.Errorf("offered %v, config %s", f.healthy(), n.content())
			}
			n.write(`{"resourceList":[`+entry+`]}`, "pcidp/config.json")
			n.settleAfter(time.Minute)
			if len(f.healthy()) != 1 || !slices.Contains(n.reasons(), string(reason.OfferedTwice)) {
				t.Errorf("an entry after the takeover: offered %v, problems %q", f.healthy(), n.reasons())
			}
			n.declare("b", 2, "dpdkResourceName: "+sriovNet.String())
			n.settleAfter(time.Minute)
			if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(1)}) {
				t.Errorf("offered %v", got)
			}
			n.restartOffering(f, wish)
			if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(1)}) {
				t.Errorf("after a restart: offered %v", got)
			}
		})
	}
}

// TestUnknownWish: nothing changes hands while the Node's label cannot be read or understood.
func TestUnknownWish(t *testing.T) {
	for _, mode := range []nodestate.OfferMode{nodestate.OfferPCIDP, nodestate.OfferDevicePlugin} {
		wish := wishes(mode)
		n, f := offerNode(t, wish)
		owned, offered := slices.Clone(n.owned()), f.healthy()
		for _, w := range []Wish{{Mode: nodestate.OfferPCIDP}, {Mode: nodestate.OfferDevicePlugin}, {Mode: nodestate.OfferPCIDP, Known: true, Invalid: "dra"},
			{Mode: nodestate.OfferDevicePlugin, Known: true, Invalid: "dra"}} {
			*wish = w
			n.settleAfter(time.Minute)
			n.restartOffering(f, wish)
			n.settleAfter(time.Minute)
			if !slices.Equal(n.owned(), owned) || !slices.Equal(f.healthy(), offered) {
				t.Errorf("%s, %+v: owned %v, offered %v", mode, w, n.owned(), f.healthy())
			}
			if has := slices.Contains(n.reasons(), string(reason.OfferLabelInvalid)); has != (w.Invalid != "") {
				t.Errorf("%+v: problems %q", w, n.reasons())
			}
		}
	}
}

// TestOfferedFromInventory: a daemon that has just started offers the devices of this boot's inventory before it reads
// anything else, except the ones that sysfs denies.
func TestOfferedFromInventory(t *testing.T) {
	wish := wishes(nodestate.OfferDevicePlugin)
	n, f := offerNode(t, wish)
	n.declare("b", 2, "dpdkResourceName: intel.com/b")
	n.settle()
	n.bind(2, "vfio-pci")
	n.restartOffering(f, wish)
	if got := f.healthy(); !slices.Equal(got, []device.PCIAddress{pci(1)}) || len(f.names) != 2 {
		t.Errorf("offered %v of %v", got, f.names)
	}
	n.unplug(1)
	n.restartOffering(f, wish)
	if got := f.healthy(); len(got) > 0 || len(f.names) != 2 {
		t.Errorf("unplugged: offered %v of %v", got, f.names)
	}
	n.boot = "boot-2"
	n.restartOffering(f, wish)
	if got := f.healthy(); len(got) > 0 || len(f.names) != 2 {
		t.Errorf("after a reboot: offered %v of %v", got, f.names)
	}
	n.must(os.RemoveAll(n.path("sys/bus")))
	n.boot = "boot-1"
	n.restartOffering(f, wish)
	if got := f.healthy(); len(got) > 0 || len(f.names) != 2 {
		t.Errorf("without sysfs: offered %v of %v", got, f.names)
	}
}

// TestRollbackWithoutDevicePlugin: the daemon goes on offering while there is no device plugin to hand back to.
func TestRollbackWithoutDevicePlugin(t *testing.T) {
	wish := wishes(nodestate.OfferDevicePlugin)
	n, f := offerNode(t, wish)
	wish.Mode, n.restarts.err = nodestate.OfferPCIDP, pluginrestart.ErrNoDevicePlugin
	for range 4 {
		n.settleAfter(time.Minute)
	}
	if n.state() != view.OfferHandingBack || f.lingering || len(f.healthy()) != 1 {
		t.Errorf("state %q, lingering %t, offered %v", n.state(), f.lingering, f.healthy())
	}
	n.restarts.err = nil
	n.daemon.Nudge()
	n.settleMode("")
}
