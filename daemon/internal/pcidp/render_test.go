package pcidp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

var standard = []Entry{
	{"example.com/vf", []Selector{{[]string{"igbvf"}, []device.PCIAddress{"0000:01:10.0"}}}, []string{"vf"}},
	{"intel.com/sriov_net", []Selector{
		{[]string{"ena"}, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0"}},
		{[]string{"vfio-pci"}, []device.PCIAddress{"0000:00:08.0"}},
	}, []string{"net-a", "net-b"}},
}

var standardOwned = []device.ResourceName{"example.com/vf", "intel.com/sriov_net"}

// The golden files have content and Problems of configs found in the field, with and without devices to advertise.
func TestRenderField(t *testing.T) {
	inputs, err := filepath.Glob("testdata/field/*.json")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	owned := map[string][]device.ResourceName{
		"edited-ours":    {"example.com/old", "intel.com/sriov_net"},
		"second-of-ours": {"intel.com/sriov_net"},
	}
	for _, input := range append(inputs, "testdata/field/missing.json") {
		name := strings.TrimSuffix(filepath.Base(input), ".json")
		current, err := os.ReadFile(input)
		if name == "missing" {
			current, err = nil, nil
		}
		must(t, err)
		for kind, ours := range map[string][]Entry{"": standard, ".none": nil} {
			t.Run(name+kind, func(t *testing.T) {
				r := checkRender(t, current, ours, owned[name])
				compareGolden(t, filepath.Join("testdata/field", name+kind+".golden"), r)
			})
		}
	}
}

func compareGolden(t *testing.T, path string, r Rendering) {
	t.Helper()
	got := string(r.Content) + fmt.Sprintf("owned: %s\nset aside: %t\n", r.Owned, r.SetAside())
	for _, l := range r.LeftOut {
		got += fmt.Sprintf("left out: %s: entry %s %s; %s\n", l.Reason, l.Entry, l.Cause, l.Remedy)
	}
	for _, p := range r.Problems {
		got += fmt.Sprintf("problem: %s NodeENI=%s Device=%s: %s\n", p.Reason, p.NodeENI, p.Device, p.Message)
	}
	if *update {
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("rendering (-golden +got):\n%s", diff)
	}
}

func checkRender(t *testing.T, current []byte, ours []Entry, owned []device.ResourceName) Rendering {
	t.Helper()
	r, err := Render(current, ours, owned, here)
	if err != nil {
		t.Fatalf("Render: %v, of\n%s", err, current)
	}
	judge(t, r.Content, ours, r.Owned)
	again, err := Render(r.Content, ours, r.Owned, here)
	if err != nil || !bytes.Equal(again.Content, r.Content) || again.SetAside() {
		t.Fatalf("rendering again: %v, set aside %t, (-once +again)\n%s", err, again.SetAside(), cmp.Diff(string(r.Content), string(again.Content)))
	}
	if diff := cmp.Diff(r.Owned, again.Owned); diff != "" {
		t.Fatalf("owned when rendering again (-once +again):\n%s", diff)
	}
	adopted, err := Render(r.Content, ours, nil, here)
	if err != nil || !bytes.Equal(adopted.Content, r.Content) || !slices.Equal(adopted.Owned, r.Owned) {
		t.Fatalf("rendering with a lost checkpoint: %v, owned %s (-once +again)\n%s", err, adopted.Owned, cmp.Diff(string(r.Content), string(adopted.Content)))
	}
	checkForeign(t, current, r, ours, owned)
	return r
}

// Entries that are not ours, in a file that the plugin accepts, stay as they are and in their order.
func checkForeign(t *testing.T, current []byte, r Rendering, ours []Entry, owned []device.ResourceName) {
	t.Helper()
	lists := bytes.Count(bytes.ToLower(current), []byte(`"resourcelist"`))
	if lists != 1 || !dpmodel.Judge(current, modelDevices(machine)).Runs() {
		return
	}
	if r.SetAside() {
		t.Fatalf("left out though the device plugin runs: %+v, from\n%s", r.LeftOut, current)
	}
	isOurs := func(e string) bool {
		f, err := parseForeign([]byte(e), here.prefixes())
		return err == nil && (isPlaceholder(f) || f.prefix != "" && slices.Contains(owned, f.resources[0]) ||
			slices.Contains(r.Owned, f.resources[0]) && saysNoMore(e, r.Offered[f.resources[0]]))
	}
	want := slices.DeleteFunc(entries(t, current), isOurs)
	got := slices.DeleteFunc(entries(t, r.Content)[len(r.Owned):], isOurs)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("foreign entries (-before +after):\n%s\nfrom\n%s", diff, current)
	}
}

// saysNoMore says whether an entry, in compact text, has nothing but a name, drivers and some of the addresses.
func saysNoMore(entry string, offered []device.PCIAddress) bool {
	type selector struct {
		Drivers      []string            `json:"drivers"`
		PCIAddresses []device.PCIAddress `json:"pciAddresses"`
	}
	var one struct {
		ResourcePrefix, ResourceName, DeviceType string
		Selectors                                selector
	}
	var many struct {
		ResourcePrefix, ResourceName, DeviceType string
		Selectors                                []selector
	}
	read := func(into any) error {
		d := json.NewDecoder(strings.NewReader(entry))
		d.DisallowUnknownFields()
		return d.Decode(into)
	}
	if read(&many) != nil {
		if read(&one) != nil {
			return false
		}
		many.Selectors = []selector{one.Selectors}
	}
	return !slices.ContainsFunc(many.Selectors, func(s selector) bool {
		return len(s.Drivers) == 0 || len(s.PCIAddresses) == 0 ||
			slices.ContainsFunc(s.PCIAddresses, func(a device.PCIAddress) bool { return !slices.Contains(offered, a) })
	})
}

func entries(t *testing.T, content []byte) []string {
	t.Helper()
	var c struct{ ResourceList []json.RawMessage }
	must(t, json.Unmarshal(content, &c))
	var texts []string
	for _, raw := range c.ResourceList {
		var b bytes.Buffer
		must(t, json.Compact(&b, raw))
		texts = append(texts, b.String())
	}
	return texts
}

func TestRenderPlaceholder(t *testing.T) {
	const want = `{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"sriov_placeholder",` +
		`"selectors":[{"drivers":["placeholder"],"pciAddresses":["0000:00:00.0"]}]}]}`
	r := checkRender(t, nil, nil, nil)
	var b bytes.Buffer
	if err := json.Compact(&b, r.Content); err != nil || b.String() != want {
		t.Errorf("content %s, %v; want %s", b.String(), err, want)
	}
}

func TestPlaceholderLookalikes(t *testing.T) {
	for _, entry := range []string{
		`{"resourceName":"sriov_placeholder","selectors":[{"drivers":["placeholder"],"pciAddresses":["0000:00:00.0"]}],"note":"x"}`,
		`{"resourceName":"sriov_placeholder","selectors":[{"drivers":["placeholder"]}]}`,
		`{"resourceName":"sriov_placeholder","selectors":[{"drivers":["placeholder"],"pciAddresses":["0000:00:00.0"]},{"drivers":["x"]}]}`,
		`{"resourceName":"placeholder","selectors":{"vendors":["8086"]}}`,
		`{"resourceName":"placeholder","resourcePrefix":"example.com","selectors":{"vendors":["8086"],"devices":["0000"]}}`,
	} {
		r := checkRender(t, []byte(`{"resourceList":[`+entry+`]}`), nil, nil)
		if got := entries(t, r.Content); len(got) != 1 || got[0] != entry {
			t.Errorf("entry %s became %s; want it unchanged", entry, got)
		}
	}
}

func TestRenderSyntaxError(t *testing.T) {
	for name, content := range map[string]string{
		"empty":             "",
		"white space":       " \n",
		"truncated":         `{"resourceList":[{"resourceName":"a"`,
		"comments":          "// pools\n{}",
		"trailing text":     `{} x`,
		"list at the top":   `[]`,
		"string at the top": `"x"`,
		"list is an object": `{"resourceList":{}}`,
		"list is a string":  `{"resourceList":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Render([]byte(content), standard, nil, here)
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || !strings.HasPrefix(err.Error(), "parse device plugin config: ") {
				t.Errorf("Render(%q): %v; want *SyntaxError", content, err)
			}
		})
	}
}

func TestSyntaxErrorOffset(t *testing.T) {
	_, err := Render([]byte(`{"resourceList":[}`), nil, nil, Node{})
	var syntax *SyntaxError
	var cause *json.SyntaxError
	if !errors.As(err, &syntax) || syntax.Offset != 18 || !errors.As(err, &cause) || !strings.Contains(err.Error(), "after octet 18") {
		t.Errorf("Render: %v; want a fault after octet 18", err)
	}
}

func TestRenderUnusable(t *testing.T) {
	one := func(resource, addr string) Entry {
		return Entry{device.ResourceName(resource), []Selector{{[]string{"ena"}, []device.PCIAddress{device.PCIAddress(addr)}}}, []string{"n"}}
	}
	longest := "intel.com/" + strings.Repeat("x", 58)
	tests := map[string]struct {
		ours   []Entry
		owned  []device.ResourceName
		reason string
		device string
	}{
		"invalid name":  {[]Entry{one("intel.com/a.b", "0000:00:06.0")}, nil, "InvalidResourceName", ""},
		"name too long": {[]Entry{one(longest+"x", "0000:00:06.0")}, nil, "InvalidResourceName", ""},
		"longest name":  {[]Entry{one(longest, "0000:00:06.0")}, []device.ResourceName{device.ResourceName(longest)}, "", ""},
		"advertised twice": {[]Entry{one("intel.com/a", "0000:00:06.0"), one("intel.com/b", "0000:00:06.0")},
			[]device.ResourceName{"intel.com/a"}, "AdvertisedTwice", "0000:00:06.0"},
		"two drivers": {[]Entry{{"intel.com/a", []Selector{
			{[]string{"ena"}, []device.PCIAddress{"0000:00:06.0"}},
			{[]string{"vfio-pci"}, []device.PCIAddress{"0000:00:06.0"}},
		}, []string{"n"}}}, []device.ResourceName{"intel.com/a"}, "", ""},
		"no address": {[]Entry{{"intel.com/a", []Selector{{Drivers: []string{"ena"}}}, nil}}, nil, "", ""},
		"no driver":  {[]Entry{{"intel.com/a", []Selector{{PCIAddresses: []device.PCIAddress{"0000:00:06.0"}}}, nil}}, nil, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := Render(nil, tt.ours, nil, here)
			must(t, err)
			judge(t, r.Content, nil, nil)
			same(t, "owned", tt.owned, r.Owned)
			var want []nodestate.Problem
			if tt.reason != "" {
				want = []nodestate.Problem{{Reason: nodestate.Reason(tt.reason), NodeENI: "n", Device: tt.device}}
			}
			for i := range r.Problems {
				if r.Problems[i].Message == "" {
					t.Errorf("problem %d has no message", i)
				}
				r.Problems[i].Message = ""
			}
			same(t, "problems", want, r.Problems)
		})
	}
}

func FuzzRender(f *testing.F) {
	inputs, err := filepath.Glob("testdata/field/*.json")
	must(f, err)
	for _, path := range inputs {
		data, err := os.ReadFile(path)
		must(f, err)
		f.Add(data, true, true)
		f.Add(data, false, false)
	}
	f.Add([]byte(`{"resourceList":[{"resourceName":"a","resourceName":"b","selectors":1,"selectors":{}}],"resource\u004cist":null}`), true, false)
	f.Fuzz(func(t *testing.T, current []byte, advertise, owns bool) {
		var ours []Entry
		var owned []device.ResourceName
		if advertise {
			ours = standard
		}
		if owns {
			owned = standardOwned
		}
		_, err := Render(current, ours, owned, here)
		var syntax *SyntaxError
		if errors.As(err, &syntax) {
			if v := dpmodel.Judge(current, nil); !strings.HasPrefix(v.Exit, "unreadable") {
				t.Fatalf("refused what the device plugin can read: %v; model: %+v", err, v)
			}
			return
		}
		checkRender(t, current, ours, owned)
	})
}
