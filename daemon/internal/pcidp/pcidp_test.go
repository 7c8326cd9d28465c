package pcidp

import (
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

var update = flag.Bool("update", false, "write golden files")

// machine is the tests' node: two ENIs on ena, one on vfio-pci, and a PF with two VFs.
var machine = Facts{
	"0000:00:06.0": {Address: "0000:00:06.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", Interfaces: []string{"ens6"}},
	"0000:00:07.0": {Address: "0000:00:07.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena"},
	"0000:00:08.0": {Address: "0000:00:08.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "vfio-pci"},
	"0000:01:00.0": {Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10c9, Class: 0x020000, Driver: "igb", Interfaces: []string{"eth1"},
		VirtFns: []device.PCIAddress{"0000:01:10.0", "0000:01:10.2"}},
	"0000:01:10.0": {Address: "0000:01:10.0", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, Driver: "igbvf", PhysFn: "0000:01:00.0"},
	"0000:01:10.2": {Address: "0000:01:10.2", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, Driver: "igbvf", PhysFn: "0000:01:00.0"},
}

// here is that node, on which no link has a default route.
var here = Node{Facts: machine, DefaultRoutes: func() map[string]bool { return map[string]bool{} }}

func modelDevices(facts Facts) []dpmodel.Device {
	var devices []dpmodel.Device
	for _, f := range facts {
		d := dpmodel.Device{Address: f.Address, Vendor: f.Vendor, Device: f.Device, Class: f.Class, Driver: f.Driver,
			PFAddress: f.PhysFn, VFID: -1, LinkType: "ether", VFs: len(f.VirtFns)}
		if pf, ok := facts[f.PhysFn]; ok {
			d.VFID = slices.Index(pf.VirtFns, f.Address)
			d.PFName = pf.Interfaces[0]
		}
		if f.UserspaceDriver() && d.PFName == "" {
			d.LinkType = ""
		}
		devices = append(devices, d)
	}
	slices.SortFunc(devices, func(a, b dpmodel.Device) int { return strings.Compare(a.Address.String(), b.Address.String()) })
	return devices
}

// judged judges each written config, by the state of last.
func judged(t *testing.T, last *Request) func([]byte) {
	return dpmodel.Judged(t, func() []dpmodel.Device { return modelDevices(last.Facts) }, func() []string { return last.Prefixes })
}

// judge fails the test unless the device plugin would serve exactly the owned entries' devices.
func judge(t *testing.T, content []byte, ours []Entry, owned []device.ResourceName) {
	t.Helper()
	v := dpmodel.Judge(content, modelDevices(machine))
	if !v.Runs() {
		t.Fatalf("the device plugin would end: exit %q, panic %q, on\n%s", v.Exit, v.Panic, content)
	}
	for _, e := range ours {
		if !slices.Contains(owned, e.Resource) {
			continue
		}
		var want []device.PCIAddress
		for _, s := range e.Selectors {
			want = append(want, s.PCIAddresses...)
		}
		got := slices.Sorted(slices.Values(v.Resources[e.Resource.String()]))
		if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); diff != "" {
			t.Fatalf("devices of %s (-want +got):\n%s\nin\n%s", e.Resource, diff, content)
		}
	}
}

func row(eni, resource, addr, driver string) nodestate.Device {
	return nodestate.Device{
		NodeENI: eni, ResourceName: device.ResourceName(resource), PCIAddress: device.PCIAddress(addr), Driver: driver, Phase: nodestate.PhaseReady,
	}
}

func TestDesired(t *testing.T) {
	with := func(d nodestate.Device, p nodestate.Phase) nodestate.Device { d.Phase = p; return d }
	rows := []nodestate.Device{
		row("b", "intel.com/sriov_net", "0000:00:08.0", "vfio-pci"),
		row("a", "intel.com/sriov_net", "0000:00:07.0", "ena"),
		row("b", "intel.com/sriov_net", "0000:00:06.0", "ena"),
		row("c", "example.com/fast", "0000:01:10.0", "igbvf"),
		row("kernel only", "", "0000:00:09.0", "ena"),
		row("no address", "intel.com/sriov_net", "", "ena"),
		row("no driver", "intel.com/sriov_net", "0000:00:0a.0", ""),
		with(row("pending", "intel.com/sriov_net", "0000:00:0b.0", "ena"), nodestate.PhasePending),
		with(row("draining", "intel.com/gone", "0000:00:0c.0", "ena"), nodestate.PhaseDraining),
	}
	want := []Entry{
		{"example.com/fast", []Selector{{[]string{"igbvf"}, []device.PCIAddress{"0000:01:10.0"}}}, []string{"c"}},
		{"intel.com/sriov_net", []Selector{
			{[]string{"ena"}, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0"}},
			{[]string{"vfio-pci"}, []device.PCIAddress{"0000:00:08.0"}},
		}, []string{"a", "b"}},
	}
	for range 10 {
		if diff := cmp.Diff(want, Desired(rows)); diff != "" {
			t.Fatalf("Desired (-want +got):\n%s", diff)
		}
		rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	}
	if got := Desired(nil); got != nil {
		t.Errorf("Desired(nil) = %v; want none", got)
	}
}

func TestCouldTake(t *testing.T) {
	selectors := []string{
		`{}`, `[{}]`, `[{"vendors":["none"]},{}]`, `{"vendors":["1d0f"]}`, `{"devices":["10ca"]}`, `{"drivers":["vfio-pci","igbvf"]}`,
		`{"pciAddresses":["0000:00:06.0"]}`, `{"PCIADDRESSES":["0000:00:06.0"]}`, `{"pfNames":["ens6"]}`, `{"pfNames":["ETH1"]}`, `{"pfNames":["eth"]}`,
		`{"pfNames":["eth1#0"]}`, `{"pfNames":["eth1#1-4"]}`, `{"pfNames":["eth1#x"]}`, `{"pfNames":["eth1#0-x"]}`, `{"pfNames":["eth1#0-1-2"]}`,
		`{"pfNames":["eth1#0#1"]}`, `{"pfNames":["["]}`, `{"pfNames":[""]}`, `{"pfNames":["eth1#9","eth1#0"]}`, `{"pfNames":["eth1#"]}`,
		`{"rootDevices":["0000:00:06.0"]}`, `{"rootDevices":["0000:01:00.0#1"]}`, `{"linkTypes":["ether"]}`, `{"linkTypes":["infiniband"]}`,
		`{"pKeys":["0x1"]}`, `{"vendors":["1d0f"],"isRdma":true}`, `{"vendors":["1d0f"],"vdpaType":"vhost"}`, `{"vendors":["1d0f"],"ddpProfiles":["GTP"]}`,
		`{"vendors":"1d0f"}`, `[]`, `"x"`,
	}
	for _, deviceType := range []string{"netDevice", "accelerator", "auxNetDevice"} {
		for _, s := range selectors {
			if deviceType == auxNetDevice {
				s = strings.ReplaceAll(s, "{", `{"auxTypes":["sf"],`)
				s = strings.ReplaceAll(s, `,}`, `}`)
			}
			entry := []byte(`{"resourceName":"a","deviceType":"` + deviceType + `","selectors":` + s + `}`)
			f, err := parseForeign(entry, []string{DefaultPrefix})
			if err != nil {
				t.Fatalf("%s: %v", entry, err)
			}
			for addr, function := range machine {
				if len(function.VirtFns) > 0 {
					continue // the plugin never offers a PF with VFs, and we never advertise one
				}
				v := dpmodel.Judge([]byte(`{"resourceList":[`+string(entry)+`,{"resourceName":"rest","selectors":{}}]}`), modelDevices(machine))
				want := slices.Contains(v.Resources["intel.com/a"], addr)
				got := f.couldTake(addr, machine)
				if want && f.netDevice() && !got || !want && f.matches(addr, machine) == yes || function.Vendor == amazon && got != (want && f.netDevice()) {
					t.Errorf("%s takes %s: %t; the model says %t", entry, addr, got, want)
				}
			}
		}
	}
}

func TestCouldTakeUnknown(t *testing.T) {
	tests := map[string]struct {
		selectors string
		facts     Facts
		want      bool
	}{
		"no facts, other criteria":    {`{"drivers":["ena"]}`, nil, false},
		"no facts, address":           {`{"pciAddresses":["0000:00:06.0"]}`, nil, true},
		"ACPI index is not in sysfs.": {`{"acpiIndexes":["101"]}`, machine, true},
		"RDMA of another vendor": {`{"isRdma":true}`, Facts{
			"0000:00:06.0": {Address: "0000:00:06.0", Vendor: 0x15b3, Class: 0x020700, Driver: "mlx5_core"},
		}, true},
		"VF whose PF is not described": {`{"pfNames":["eth1"]}`, Facts{"0000:00:06.0": {PhysFn: "0000:00:01.0", Driver: "igbvf"}}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := parseForeign([]byte(`{"resourceName":"a","selectors":`+tt.selectors+`}`), []string{DefaultPrefix})
			must(t, err)
			if got := f.couldTake("0000:00:06.0", tt.facts); got != tt.want {
				t.Errorf("couldTake = %t; want %t", got, tt.want)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
