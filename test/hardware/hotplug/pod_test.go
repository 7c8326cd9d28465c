package hotplug

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const (
	network  = "storm" // the netconfs' name
	leaseDir = "/var/lib/cni/networks"
	ifName   = "net1"
)

// delegates are the netconf's delegate, by the way a pod has its ENI.
const (
	exclusive = ""
	ipvlan    = `"delegate":{"type":"ipvlan","mode":"l2"},`
)

type pod struct {
	id, netns string
	eni       guest.ENI
	delegate  string
}

func newPod(t testing.TB, id string, e guest.ENI, delegate string) pod {
	t.Helper()
	return pod{id: id, netns: guest.NewNetns(t, id), eni: e, delegate: delegate}
}

func (p pod) call(verb string) guest.CNICall {
	var allocated string
	if inv, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath); err == nil {
		if row := find(inv, p.eni.ID); row.ResourceName != "" && row.PCIAddress != "" {
			allocated = fmt.Sprintf(`"deviceID":%q,`, row.PCIAddress)
		}
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"type":"multi-eni","select":{"eniID":%q},%s%s`+
		`"ipam":{"type":"host-local","ranges":[[{"subnet":%q}]],"dataDir":%q}}`, network, p.eni.ID, allocated, p.delegate, guest.CloudCIDR, leaseDir)
	return guest.CNICall{Verb: verb, Netns: p.netns, ContainerID: p.id, IfName: ifName, Conf: conf}
}

func (p pod) add(t testing.TB) {
	t.Helper()
	if r := guest.CNI(t, p.call("ADD")); r.Code != 0 {
		t.Fatalf("ADD of %s: code %d: %s", p.id, r.Code, r.Msg)
	}
}

// end ends a pod as a runtime does: DEL twice, and the netns goes.
func (p pod) end(t testing.TB) {
	t.Helper()
	for range 2 {
		if r := guest.CNI(t, p.call("DEL")); r.Code != 0 {
			t.Errorf("DEL of %s: code %d: %s", p.id, r.Code, r.Msg)
		}
	}
	guest.DeleteNetns(t, p.netns)
}

func (p pod) mac(t testing.TB) (mac device.MAC) {
	t.Helper()
	guest.In(t, p.netns, func() {
		if l, err := netlink.LinkByName(ifName); err == nil {
			mac = device.MAC(l.Attrs().HardwareAddr.String())
		}
	})
	return mac
}

func records(t testing.TB, e guest.ENI) []nodestate.Attachment {
	t.Helper()
	all, bad, err := nodestate.AttachmentDir(nodestate.DefaultAttachmentsDir).List()
	if err != nil || len(bad) > 0 {
		t.Fatalf("attachment records: %v, %v", err, bad)
	}
	return slices.DeleteFunc(all, func(a nodestate.Attachment) bool { return a.Device.ENIID != e.ID })
}

func leases(t testing.TB, pods ...pod) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(leaseDir, network, "10.*"))
	guest.Must(t, err)
	return slices.DeleteFunc(files, func(f string) bool {
		data, err := os.ReadFile(f)
		return err != nil || !slices.ContainsFunc(pods, func(p pod) bool { return strings.HasPrefix(string(data), p.id) })
	})
}

func leftovers(t testing.TB) (files []string) {
	t.Helper()
	for _, pattern := range []string{
		filepath.Join(nodestate.DefaultAttachmentsDir, "*.json"), filepath.Join(nodestate.DefaultAttachmentsDir, "restore", "*"),
		filepath.Join(leaseDir, network, "10.*"),
	} {
		found, err := filepath.Glob(pattern)
		guest.Must(t, err)
		files = append(files, found...)
	}
	return files
}
