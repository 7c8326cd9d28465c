package binding

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// After a reboot all is right again from the files on disk, also with the NICs in each other's places. Later tests follow.
func TestReboot(t *testing.T) {
	a, b, c := prepare(t, macA, "ens-a", false), prepare(t, macB, "ens-b", false), prepare(t, macC, "ens-c", true)
	flags := []string{"--orphan-grace=1s"}
	if guest.Boot() == 1 {
		start(t, flags, eniA(), eniB(), eniC())
		guest.WriteNodeENI(t, "a", kernel(eniA()))
		guest.WriteNodeENI(t, "b", sriov(eniB()))
		guest.WriteNodeENI(t, "c", dpdk(eniC(), "vfio-pci"))
	} else {
		if _, err := os.Stat(nodestate.DefaultInventoryPath); err == nil {
			t.Fatal("the inventory has outlived the boot")
		}
		kept := read(guest.DPConfigPath)
		if section(kept.data, "vfio-pci") == "" {
			t.Fatalf("the disk has kept the config %s", kept.data)
		}
		resume(t, flags, eniA(), eniB(), eniC())
		// The files on disk are of another boot. The next ones are true.
		guest.Eventually(t, "a config of this boot", soon, func() bool { return !kept.still(guest.DPConfigPath) })
	}
	w := watch(t, eniC().ID, c.pci, "vfio-pci")
	c.bound(t, eniC(), "vfio-pci")
	guest.AwaitPhase(t, eniA().ID, nodestate.PhaseReady, soon)
	guest.AwaitPhase(t, eniB().ID, nodestate.PhaseReady, soon)
	wantConfig(t, pool(resourceDPDK, "vfio-pci", c), pool(resourceSRIOV, "e1000e", b))
	wantUsable(t, c.pci)
	a.kept(t)
	b.kept(t)
	noRecordOfBefore(t)
	w.finish()

	guest.MustAdd(t, newPod(t, "pod", `"select":{"nodeENI":"a"}`, "10.0.1.10/24"))
	keep := []string{nodestate.DefaultStateDir, nodestate.DefaultAttachmentsDir, filepath.Dir(guest.DPConfigPath), guest.NodeENIDir}
	switch guest.Boot() {
	case 1:
		guest.Reboot(t, keep...)
	case 2: // b comes to where c was, which must not get it bound
		guest.RebootMoved(t, map[string]string{"a": "slot5", "b": "slot2", "c": "slot1"}, keep...)
	}
	guest.MustDel(t, guest.CNICall{ContainerID: "pod", Netns: "/run/netns/pod", Conf: `{"cniVersion":"1.1.0","name":"test","type":"multi-eni"}`})
	for _, name := range []string{"a", "b", "c"} {
		guest.RemoveNodeENI(t, name)
	}
	c.restored(t)
	c.withdrawn(t, eniC())
	// Clean would miss the files that the disk had until the last boot began.
	guest.Eventually(t, "no record", soon, func() bool {
		records, restores := recordsOf(t)
		return len(records) == 0 && len(restores) == 0
	})
}

func recordsOf(t *testing.T) ([]nodestate.Attachment, []nodestate.Restore) {
	t.Helper()
	dir := nodestate.AttachmentDir(nodestate.DefaultAttachmentsDir)
	records, bad, err := dir.List()
	if err != nil || len(bad) > 0 {
		t.Fatalf("list records: %v, %v", bad, err)
	}
	devices, err := dir.Restores()
	guest.Must(t, err)
	var restores []nodestate.Restore
	for _, pci := range devices {
		r, err := dir.LoadRestore(pci)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		guest.Must(t, err)
		restores = append(restores, r)
	}
	return records, restores
}

// noRecordOfBefore waits until nothing is left of an earlier boot's attachments and bindings.
func noRecordOfBefore(t *testing.T) {
	t.Helper()
	boot, err := nodestate.BootID()
	guest.Must(t, err)
	guest.Eventually(t, "no record of an earlier boot", soon, func() bool {
		records, restores := recordsOf(t)
		old := func(r nodestate.Restore) bool { return r.BootID != boot }
		return len(records) == 0 && !slices.ContainsFunc(restores, old)
	})
}
