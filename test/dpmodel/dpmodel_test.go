package dpmodel

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// machine has two ENIs on ena, one on vfio-pci, the primary, one without driver, a PF with a VF, and an accelerator.
var machine = []Device{
	{Address: "0000:00:05.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", VFID: -1, LinkType: "ether", DefaultRoute: true},
	{Address: "0000:00:06.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", VFID: -1, LinkType: "ether", ACPIIndex: "101"},
	{Address: "0000:00:07.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", VFID: -1, LinkType: "ether"},
	{Address: "0000:00:08.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "vfio-pci", VFID: -1},
	{Address: "0000:00:09.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, VFID: -1},
	{Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10c9, Class: 0x020000, Driver: "igb", VFID: -1, LinkType: "ether", VFs: 1},
	{Address: "0000:01:10.0", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, Driver: "igbvf", PFAddress: "0000:01:00.0", PFName: "eth1", VFID: 3,
		LinkType: "ether",
		RDMA:     true, VDPAType: "vhost", DDPProfile: "GTP", PKey: "0x1"},
	{Address: "0000:02:00.0", Vendor: 0x8086, Device: 0x4940, Class: 0x120000, Driver: "4xxx", VFID: -1},
}

func TestSelectors(t *testing.T) {
	tests := map[string]struct {
		selectors string
		want      []device.PCIAddress
	}{
		"empty object takes all offered":  {`{}`, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0", "0000:00:08.0", "0000:01:10.0"}},
		"empty lists take all offered":    {`{"vendors":[],"pfNames":null}`, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0", "0000:00:08.0", "0000:01:10.0"}},
		"drivers":                         {`{"drivers":["vfio-pci","igbvf"]}`, []device.PCIAddress{"0000:00:08.0", "0000:01:10.0"}},
		"vendors and devices":             {`{"vendors":["8086"],"devices":["10ca","10c9"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"vendors in another spelling":     {`{"vendors":["0x8086"]}`, nil},
		"pciAddresses":                    {`{"pciAddresses":["0000:00:07.0","0000:00:06.0"]}`, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0"}},
		"pciAddresses of the default ENI": {`{"pciAddresses":["0000:00:05.0"]}`, nil},
		"pciAddresses without a driver":   {`{"pciAddresses":["0000:00:09.0"]}`, nil},
		"keys in any case":                {`{"DRIVERS":["vfio-pci"]}`, []device.PCIAddress{"0000:00:08.0"}},
		"unknown keys are nothing":        {`{"drivers":["vfio-pci"],"x":[1]}`, []device.PCIAddress{"0000:00:08.0"}},
		"acpiIndexes":                     {`{"acpiIndexes":["101"]}`, []device.PCIAddress{"0000:00:06.0"}},
		"pfNames is for VFs only":         {`{"pfNames":["ens6"]}`, nil},
		"pfNames is no expression":        {`{"pfNames":["eth"]}`, nil},
		"pfNames in any case":             {`{"pfNames":["ETH1"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"pfNames first item decides":      {`{"pfNames":["eth1#0","eth1#3"]}`, nil},
		"pfNames with VFs":                {`{"pfNames":["eth1#0,2-7"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"pfNames with one VF":             {`{"pfNames":["eth1#3"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"pfNames with other VFs":          {`{"pfNames":["eth1#0,4-7"]}`, nil},
		"pfNames with a bad VF":           {`{"pfNames":["eth1#x"]}`, nil},
		"pfNames with a bad end":          {`{"pfNames":["eth1#1-x"]}`, nil},
		"pfNames with two ranges in one":  {`{"pfNames":["eth1#1-2-3"]}`, nil},
		"pfNames with two marks":          {`{"pfNames":["eth1#3#3"]}`, nil},
		"pfNames empty":                   {`{"pfNames":[""]}`, nil},
		"rootDevices of a VF":             {`{"rootDevices":["0000:01:00.0"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"rootDevices is for VFs only":     {`{"rootDevices":["0000:00:08.0"]}`, nil},
		"linkTypes":                       {`{"linkTypes":["ether"],"vendors":["1d0f"]}`, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0"}},
		"isRdma":                          {`{"isRdma":true}`, []device.PCIAddress{"0000:01:10.0"}},
		"vdpaType":                        {`{"vdpaType":"vhost"}`, []device.PCIAddress{"0000:01:10.0"}},
		"ddpProfiles":                     {`{"ddpProfiles":["GTP"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"pKeys":                           {`{"pKeys":["0x1"]}`, []device.PCIAddress{"0000:01:10.0"}},
		"list, in the list's order":       {`[{"drivers":["igbvf"]},{"drivers":["vfio-pci","igbvf"]}]`, []device.PCIAddress{"0000:01:10.0", "0000:00:08.0"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v := Judge([]byte(`{"resourceList":[{"resourceName":"a","selectors":`+tt.selectors+`}]}`), machine)
			if !v.Runs() || len(v.Skipped) > 0 {
				t.Fatalf("verdict %+v; want a pool", v)
			}
			if diff := cmp.Diff(tt.want, v.Resources["intel.com/a"]); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDeviceTypes(t *testing.T) {
	for deviceType, want := range map[string][]device.PCIAddress{
		"":             {"0000:01:10.0"},
		"netDevice":    {"0000:01:10.0"},
		"accelerator":  {"0000:02:00.0"},
		"auxNetDevice": nil,
	} {
		v := Judge([]byte(`{"resourceList":[{"resourceName":"a","deviceType":"`+deviceType+`","selectors":[{"vendors":["8086"],"auxTypes":["sf"]}]}]}`), machine)
		if diff := cmp.Diff(want, v.Resources["intel.com/a"]); diff != "" || !v.Runs() {
			t.Errorf("deviceType %q: %+v (-want +got):\n%s", deviceType, v, diff)
		}
	}
}

func TestFirstMatchWins(t *testing.T) {
	v := Judge([]byte(`{"resourceList":[
		{"resourceName":"one","selectors":{"pciAddresses":["0000:00:07.0"]}},
		{"resourceName":"two","resourcePrefix":"example.com","selectors":{"drivers":["ena"]}},
		{"resourceName":"one","resourcePrefix":"example.com","selectors":{"drivers":["ena"]}}]}`), machine)
	want := map[string][]device.PCIAddress{"intel.com/one": {"0000:00:07.0"}, "example.com/two": {"0000:00:06.0"}}
	if diff := cmp.Diff(want, v.Resources); diff != "" || !v.Runs() {
		t.Errorf("verdict %+v (-want +got):\n%s", v, diff)
	}
}

func TestEnds(t *testing.T) {
	const ok = `{"resourceName":"ok","selectors":{"drivers":["none"]}}`
	list := func(entries ...string) string { return `{"resourceList":[` + strings.Join(entries, ",") + `]}` }
	tests := map[string]struct {
		content     string
		exit, panic string
	}{
		"runs":                  {list(ok), "", ""},
		"empty file":            {``, "unreadable", ""},
		"comments":              {"# pools\n" + list(ok), "unreadable", ""},
		"trailing text":         {list(ok) + "x", "unreadable", ""},
		"null":                  {`null`, "no resource", ""},
		"no list":               {`{}`, "no resource", ""},
		"null list":             {`{"resourceList":null}`, "no resource", ""},
		"empty list":            {list(), "no resource", ""},
		"list is an object":     {`{"resourceList":{}}`, "unreadable", ""},
		"later list wins":       {`{"resourceList":[` + ok + `],"ResourceList":[]}`, "no resource", ""},
		"entry is a string":     {list(ok, `"comment"`), "unreadable", ""},
		"name is a number":      {list(ok, `{"resourceName":7,"selectors":{}}`), "unreadable", ""},
		"info is a number":      {list(`{"resourceName":"a","selectors":{},"additionalInfo":{"*":{"mtu":9001}}}`), "unreadable", ""},
		"unknown deviceType":    {list(ok, `{"resourceName":"a","deviceType":"gpu","selectors":{}}`), "unsupported deviceType", ""},
		"entry is null":         {list(ok, `null`), "", "nil selectors"},
		"no selectors":          {list(ok, `{"resourceName":"a"}`), "", "nil selectors"},
		"null selectors":        {list(ok, `{"resourceName":"a","selectors":null}`), "", "nil selectors"},
		"null in selectors":     {list(ok, `{"resourceName":"a","selectors":[{},null]}`), "", "nil selector"},
		"null for accelerators": {list(ok, `{"resourceName":"a","deviceType":"accelerator","selectors":[null]}`), "", "nil selector"},
		"all skipped":           {list(`{"resourceName":"a","selectors":[]}`), "no resource", ""},
		"bad name":              {list(ok, `{"resourceName":"a.b","selectors":{}}`), "invalid characters", ""},
		"empty name":            {list(ok, `{"selectors":{}}`), "invalid characters", ""},
		"duplicate":             {list(ok, ok), "already exists", ""},
		"duplicate by default":  {list(ok, `{"resourcePrefix":"intel.com","resourceName":"ok","selectors":{}}`), "already exists", ""},
		"rdma and vdpa":         {list(ok, `{"resourceName":"a","selectors":{"isRdma":true,"vdpaType":"vhost"}}`), "exclude each other", ""},
		"skipped duplicate":     {list(ok, `{"resourceName":"ok","selectors":"x"}`), "", ""},
		"long name, unused":     {list(`{"resourceName":"` + strings.Repeat("a", 80) + `","selectors":{"drivers":["none"]}}`), "", ""},
		"long name":             {list(`{"resourceName":"` + strings.Repeat("a", 80) + `","selectors":{}}`), "cannot listen", ""},
		"longest name":          {list(`{"resourceName":"` + strings.Repeat("a", 58) + `","selectors":{}}`), "", ""},
		"name too long by one":  {list(`{"resourceName":"` + strings.Repeat("a", 59) + `","selectors":{}}`), "cannot listen", ""},
		"aux without a type":    {list(ok, `{"resourceName":"a","deviceType":"auxNetDevice","selectors":{"pfNames":["p0#1"]}}`), "auxTypes", ""},
		"aux of another type":   {list(ok, `{"resourceName":"a","deviceType":"auxNetDevice","selectors":{"auxTypes":["sf","eth"]}}`), "auxType", ""},
		"hyphens":               {list(ok, `{"resourceName":"-a-","selectors":{}}`), "", ""},
		"slash, unused":         {list(`{"resourcePrefix":"a/b","resourceName":"a","selectors":{"drivers":["none"]}}`), "", ""},
		"slash and dots":        {list(`{"resourcePrefix":"a/../b","resourceName":"a","selectors":{}}`), "", ""},
		"slash and dots only":   {list(`{"resourcePrefix":"../b","resourceName":"a","selectors":{}}`), "", ""},
		"slash in prefix":       {list(`{"resourcePrefix":"a/b","resourceName":"a","selectors":{}}`), "cannot listen", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v := Judge([]byte(tt.content), machine)
			if (v.Exit == "") != (tt.exit == "") || !strings.Contains(v.Exit, tt.exit) {
				t.Errorf("Exit = %q; want %q in it", v.Exit, tt.exit)
			}
			if (v.Panic == "") != (tt.panic == "") || !strings.Contains(v.Panic, tt.panic) {
				t.Errorf("Panic = %q; want %q in it", v.Panic, tt.panic)
			}
		})
	}
}

func TestSkipped(t *testing.T) {
	v := Judge([]byte(`{"resourceList":[
		{"resourceName":"a","selectors":[]},
		{"resourceName":"b","selectors":"x"},
		{"resourceName":"c","selectors":{"vendors":"8086"}},
		{"resourceName":"d","selectors":{"drivers":["igbvf"]}}]}`), machine)
	if len(v.Skipped) != 3 || v.Skipped[0] == "" || v.Skipped[1] == "" || v.Skipped[2] == "" {
		t.Errorf("Skipped = %v; want the first three entries", v.Skipped)
	}
	if diff := cmp.Diff(map[string][]device.PCIAddress{"intel.com/d": {"0000:01:10.0"}}, v.Resources); diff != "" || !v.Runs() {
		t.Errorf("verdict %+v (-want +got):\n%s", v, diff)
	}
}

func TestPrefix(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "intel.com"},
		{[]string{"-v", "10", "-logtostderr"}, "intel.com"},
		{[]string{"-resource-prefix=a.io"}, "a.io"},
		{[]string{"--resource-prefix", "a.io", "--use-cdi"}, "a.io"},
		{[]string{"-resource-prefix=a.io", "--resource-prefix=b.io"}, "b.io"},
		{[]string{"-resource-prefix="}, ""},
		{[]string{"x", "-resource-prefix=a.io"}, "intel.com"},
		{[]string{"-v=1", "--", "-resource-prefix=a.io"}, "intel.com"},
	} {
		if got, err := Prefix(tt.args); err != nil || got != tt.want {
			t.Errorf("Prefix(%q) = %q, %v; want %q", tt.args, got, err, tt.want)
		}
	}
	if v := Judge([]byte(`{"resourceList":[{"resourceName":"a","selectors":[{}]}]}`), nil, "-prefix"); v.Status != 2 || v.Runs() {
		t.Errorf("an unknown flag: %+v; want the end", v)
	}
	v := Judge([]byte(`{"resourceList":[{"resourceName":"a","selectors":[{"drivers":["igbvf"]}]}]}`), machine, "-resource-prefix=a.io")
	if !v.Runs() || v.Resources["a.io/a"] == nil {
		t.Errorf("with a prefix: %+v", v)
	}
}

func TestKeys(t *testing.T) {
	v := Judge([]byte(`{"resourceList":[
		{"resourceName":"plain","selectors":{"pciAddresses":["0000:00:06.0"]}},
		{"resourceName":"all","excludeTopology":true,"additionalInfo":{"*":{"a":"b"}},
			"selectors":[{"drivers":["igbvf"],"isRdma":true},{"drivers":["ena"],"needVhostNet":true},{"vdpaType":"vhost"}]}]}`), machine)
	want := map[string][]string{"intel.com/all": {"additionalInfo", "excludeTopology", "isRdma", "needVhostNet", "vdpaType"}}
	if diff := cmp.Diff(want, v.Keys); !v.Runs() || diff != "" {
		t.Errorf("%+v; keys (-want +got):\n%s", v, diff)
	}
}
