package bench

import (
	"os/exec"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/bench/table"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const (
	soon = 60 * time.Second

	macPrimary = "02:00:00:00:00:01"
	subnet     = "subnet-0a1b2c3d4e5f60001"
)

func cycles() int { return 1 + *rounds/2 }

type kind struct {
	spec   v1alpha1.NodeENISpec
	driver string
	// written and removed end when the config has changed. given lasts until the kernel's driver has the device.
	written, removed, given table.Sample
}

// advertise measures the daemon from a NodeENI to the config and back, for a bound device and one left alone.
func advertise(t *testing.T) []table.Row {
	t.Helper()
	pci, _ := guest.WaitNIC(t, macDPDK)
	eni := fakeimds.ENI{ID: "eni-0123456789abcde01", MAC: macDPDK, DeviceIndex: 1, SubnetID: subnet, SubnetIPv4CIDR: "10.0.1.0/24", IPv4s: []string{"10.0.1.12"}}
	imds := guest.StartIMDS(t, eni)
	daemon := guest.StartDaemon(t, guest.DaemonOptions{IMDS: imds.URL})
	defer daemon.Stop()
	guest.Eventually(t, "the daemon has an inventory", soon, func() bool { return guest.Inventory(t).NodeName != "" })
	spec := v1alpha1.NodeENISpec{SubnetID: subnet, DeviceIndex: 1, DPDKResourceName: "intel.com/a"}
	left := kind{spec: spec, driver: "e1000e"}
	spec.EnableDPDK, spec.DPDKDriver = true, "vfio-pci"
	bound := kind{spec: spec, driver: "vfio-pci"}
	for range cycles() {
		left.cycle(t, pci, eni)
		bound.cycle(t, pci, eni)
	}
	guest.SetDown(t, guest.Netdev(pci)) // as it was before the daemon
	return []table.Row{
		compared("NodeENI → bound to vfio-pci, in config.json; other: kernel driver", bound.written, left.written, 0),
		compared("NodeENI removed → out of config.json, vfio-pci; other: kernel driver", bound.removed, left.removed, 0),
		{Name: "NodeENI removed → kernel driver and link back", Ours: text(bound.given)},
	}
}

func (k *kind) cycle(t *testing.T, pci string, eni fakeimds.ENI) {
	t.Helper()
	began := time.Now()
	guest.WriteNodeENI(t, "a", k.spec, guest.Attached(eni))
	guest.Eventually(t, pci+" is advertised", soon, func() bool { return guest.Advertised(t, pci) })
	k.written.Add(time.Since(began))
	if got := guest.Driver(pci); got != k.driver {
		t.Errorf("%s is advertised with driver %s, want %s", pci, got, k.driver)
	}
	guest.AwaitPhase(t, eni.ID, nodestate.PhaseReady, soon)

	began = time.Now()
	guest.RemoveNodeENI(t, "a")
	guest.Eventually(t, pci+" is advertised no more", soon, func() bool { return !guest.Advertised(t, pci) })
	k.removed.Add(time.Since(began))
	guest.Eventually(t, pci+" has its kernel driver and its link", soon, func() bool {
		return guest.Driver(pci) == "e1000e" && guest.Netdev(pci) != ""
	})
	k.given.Add(time.Since(began))
	guest.AwaitRestored(t, pci, soon)
	guest.AwaitPhase(t, eni.ID, "", soon)
}

func drivers(t *testing.T) []table.Row {
	t.Helper()
	pci, _ := guest.WaitNIC(t, macDPDK)
	var start, there, back table.Sample
	for range partRounds {
		began := time.Now()
		if out, err := exec.Command("/usr/local/bin/multi-enid", "version").CombinedOutput(); err != nil {
			t.Fatalf("multi-enid version: %v: %s", err, out)
		}
		start.Add(time.Since(began))
		began = time.Now()
		guest.Bind(t, pci, "vfio-pci")
		there.Add(time.Since(began))
		began = time.Now()
		guest.Bind(t, pci, "e1000e")
		back.Add(time.Since(began))
	}
	return []table.Row{
		{Name: "start of multi-enid (version)", Ours: text(start)},
		{Name: "from e1000e to vfio-pci, by hand", Ours: text(there)},
		{Name: "from vfio-pci to e1000e and a link, by hand", Ours: text(back)},
	}
}
