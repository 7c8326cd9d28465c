package pcidp

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel/verdicts"
)

// bare has no device, and busy one for each kind of entry in the verdicts.
var (
	bare = Node{}
	busy = func() Node {
		n := Node{Facts: Facts{}, DefaultRoutes: here.DefaultRoutes}
		for addr, f := range machine {
			n.Facts[addr] = f
		}
		n.Facts["0000:02:00.0"] = sysfs.PCIFunction{Address: "0000:02:00.0", Vendor: 0x8086, Device: 0x0d90, Class: 0x120000, Driver: "4xxx"}
		return n
	}()
)

// survivors are the entries that the model accepts one after the other, behind entries that stay anyway.
func survivors(t *testing.T, before, list []string, node Node) []string {
	t.Helper()
	kept := slices.Clone(before)
	for _, e := range list {
		if runs(append(slices.Clone(kept), e), node) {
			kept = append(kept, e)
		}
	}
	return kept[len(before):]
}

// runs says whether every plugin of the node accepts the entries and one more that matches nothing, so that the list is
// not empty.
func runs(list []string, node Node) bool {
	const other = `{"resourcePrefix":"rest.example","resourceName":"rest","selectors":{"drivers":["none"]}}`
	content := `{"resourceList":[` + strings.Join(append(list, other), ",") + `]}`
	for _, prefix := range node.prefixes() {
		if !dpmodel.Judge([]byte(content), modelDevices(node.Facts), "-resource-prefix="+prefix).Runs() {
			return false
		}
	}
	return true
}

// compareToModel renders a list without an entry of ours and a placeholder: the model decides which entries must stay.
func compareToModel(t *testing.T, list []string, ours []Entry, node Node) Rendering {
	t.Helper()
	r, err := Render([]byte(`{"resourceList":[`+strings.Join(list, ",")+`]}`), ours, nil, node)
	must(t, err)
	got := entries(t, r.Content)
	first := len(r.Owned)
	if strings.Contains(got[0], `"sriov_placeholder"`) {
		first++
	}
	want := survivors(t, got[:first], list, node)
	if uncertain(list) { // an entry that stays then may end the plugin
		for _, e := range want {
			if !slices.Contains(got[first:], e) && !named(e, got[first:], node) {
				t.Fatalf("left out though the plugin lives with it: %s, of\n%s", e, strings.Join(list, "\n"))
			}
		}
		return r
	}
	if diff := cmp.Diff(want, got[first:], cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("people's entries (-as the model has them +left), prefixes %q, of\n%s\nleft out %+v\n%s", node.prefixes(), strings.Join(list, "\n"), r.LeftOut, diff)
	}
	if len(list)-len(got[first:]) != len(r.LeftOut) {
		t.Fatalf("%d entries became %d with %+v", len(list), len(got[first:]), r.LeftOut)
	}
	for _, e := range ours {
		if !slices.Contains(r.Owned, e.Resource) && runs(append([]string{string(encodeEntry(e))}, got[first:]...), node) {
			t.Fatalf("%s is not written though every plugin could live with it, beside\n%s", e.Resource, strings.Join(got, "\n"))
		}
	}
	return r
}

// named says whether one of the entries has the same name to a device plugin of the node, which cannot have both.
func named(entry string, among []string, node Node) bool {
	names := func(entry string) []device.ResourceName {
		e, _ := parseForeign(json.RawMessage(entry), node.prefixes())
		return e.resources
	}
	mine := names(entry)
	return slices.ContainsFunc(among, func(other string) bool {
		for i, name := range names(other) {
			if name == mine[i] {
				return true
			}
		}
		return false
	})
}

// uncertain says whether a match depends on more than the daemon sees.
func uncertain(list []string) bool {
	all := strings.Join(list, "")
	return strings.Contains(all, "acpiIndexes") || strings.Contains(all, "isRdma") || strings.Contains(all, "vdpaType")
}

func listOf(t *testing.T, content []byte) []string {
	t.Helper()
	var c struct{ ResourceList json.RawMessage }
	if err := json.Unmarshal(content, &c); err != nil || len(c.ResourceList) == 0 || c.ResourceList[0] != '[' {
		return nil
	}
	return entries(t, content)
}

// An entry is left out exactly where the plugin ends because of it, matched or not.
func TestVerdicts(t *testing.T) {
	ends := 0
	for _, c := range verdicts.All(t) {
		t.Run(c.Case, func(t *testing.T) {
			prefix, err := dpmodel.Prefix(c.Args)
			must(t, err)
			r, err := Render(c.Content(), nil, nil, Node{Prefixes: []string{prefix}})
			var syntax *SyntaxError
			switch {
			case errors.As(err, &syntax):
				if c.Runs() {
					t.Errorf("refused as a whole though the plugin runs: %v", err)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			list := listOf(t, c.Content())
			wholly := strings.HasPrefix(c.Case, "selectors {}") || strings.HasPrefix(c.Case, "selectors [{}]") // end for lack of a kubelet
			if !wholly && len(list) > 0 && c.Case != "BOM" && r.SetAside() == c.Runs() {
				t.Errorf("left out %+v; the plugin %s", r.LeftOut, c.Verdict)
			}
			if r.SetAside() {
				ends++
			}
			for _, node := range []Node{bare, busy} {
				for _, prefixes := range [][]string{{prefix}, {prefix, "other.example"}} {
					node.Prefixes = prefixes
					if compareToModel(t, list, nil, node); len(list) > 0 && c.Text == "" {
						compareToModel(t, list, standard, node)
					}
				}
			}
		})
	}
	if ends < 20 {
		t.Errorf("only %d cases leave an entry out", ends)
	}
}

// An entry whose socket cannot be made stays while nothing matches it, with a Problem.
func TestDependsOnDevices(t *testing.T) {
	long := strings.Repeat("a", 59)
	entry := func(prefix, name, selectors string) string {
		return fmt.Sprintf(`{"resourcePrefix":%q,"resourceName":%q,"selectors":%s}`, prefix, name, selectors)
	}
	const vf, all = `{"vendors":["8086"]}`, `{}`
	ens5 := Facts{"0000:00:05.0": {Address: "0000:00:05.0", Class: 0x020000, Driver: "ena", Interfaces: []string{"ens5"}}}
	routes := func() map[string]bool { return map[string]bool{"ens5": true} }
	tests := map[string]struct {
		entry    string
		node     Node
		leftOut  bool
		reported bool
	}{
		"fits":                        {entry("intel.com", long[1:], vf), busy, false, false},
		"too long, matches":           {entry("intel.com", long, vf), busy, true, false},
		"too long, no device":         {entry("intel.com", long, vf), bare, false, true},
		"too long, matches ours only": {entry("intel.com", long, `{"pciAddresses":["0000:00:06.0"]}`), busy, false, true},
		"too long, default route":     {entry("intel.com", long, `{"drivers":["ena"]}`), Node{Facts: ens5, DefaultRoutes: routes}, false, true},
		"too long, routes unknown":    {entry("intel.com", long, `{"drivers":["ena"]}`), Node{Facts: ens5}, false, true},
		"too long, ACPI index":        {entry("intel.com", long, `{"acpiIndexes":["101"]}`), busy, false, true},
		"slash, matches":              {entry("a/b", "c", vf), busy, true, false},
		"slash, no device":            {entry("a/b", "c", vf), bare, false, true},
		"slash that leads nowhere":    {entry("a/../b", "c", all), busy, false, false},
		"slash that leads up":         {entry("../b", "c", all), busy, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := Render([]byte(`{"resourceList":[`+tt.entry+`]}`), standard, nil, tt.node)
			must(t, err)
			reported := slices.ContainsFunc(r.Problems, func(p nodestate.Problem) bool { return p.Reason == "UnservableEntry" })
			if r.SetAside() != tt.leftOut || reported != tt.reported {
				t.Errorf("left out %+v, problems %+v; want left out %t, reported %t", r.LeftOut, r.Problems, tt.leftOut, tt.reported)
			}
		})
	}
}

func TestServedVerdicts(t *testing.T) {
	node := here
	node.Facts = Facts{"0000:00:03.0": {Address: "0000:00:03.0", Vendor: 0x1af4, Device: 0x1041, Class: 0x020000, Driver: "virtio-pci"}}
	for _, c := range verdicts.Served(t) {
		t.Run(c.Case, func(t *testing.T) {
			prefix, err := dpmodel.Prefix(c.Args)
			must(t, err)
			node.Prefixes = []string{prefix}
			r, err := Render(c.Content(), nil, nil, node)
			if err != nil || r.SetAside() == c.Runs() {
				t.Errorf("%v, left out %+v; the plugin %s", err, r.LeftOut, c.Verdict)
			}
			compareToModel(t, listOf(t, c.Content()), nil, node)
		})
	}
}

type pieces struct{ names, prefixes, types, selectors []string }

func verdictPieces(t testing.TB) pieces {
	p := pieces{
		names:     []string{strings.Repeat("n", 59), "sriov_net", "vf"},
		prefixes:  []string{"", "", "", "intel.com", "openshift.io", "example.com"},
		types:     []string{"", "", ""},
		selectors: []string{`{"drivers":["igbvf"]}`, `{"drivers":["ena","vfio-pci"]}`, `{"pfNames":["eth1#1"]}`},
	}
	for _, c := range verdicts.All(t) {
		var list struct {
			ResourceList []struct {
				ResourceName, ResourcePrefix, DeviceType string
				Selectors                                json.RawMessage
			}
		}
		if json.Unmarshal(c.Content(), &list) != nil {
			continue
		}
		for _, e := range list.ResourceList {
			if strings.Contains(string(e.Selectors), "placeholder") {
				continue // ours to replace
			}
			p.names = append(p.names, e.ResourceName)
			p.prefixes = append(p.prefixes, e.ResourcePrefix)
			p.types = append(p.types, e.DeviceType)
			if e.Selectors != nil {
				p.selectors = append(p.selectors, string(e.Selectors))
			}
		}
	}
	for _, l := range []*[]string{&p.names, &p.prefixes, &p.types, &p.selectors} {
		slices.Sort(*l)
		*l = slices.Compact(*l)
	}
	p.prefixes, p.types = append(p.prefixes, "", "", "", ""), append(p.types, "", "", "", "")
	return p
}

func (p pieces) entry(rng *rand.Rand) string {
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	text := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	members := []string{`"resourceName":` + text(pick(p.names)), `"selectors":` + pick(p.selectors)}
	if prefix := pick(p.prefixes); prefix != "" {
		members = append(members, `"resourcePrefix":`+text(prefix))
	}
	if typ := pick(p.types); typ != "" {
		members = append(members, `"deviceType":`+text(typ))
	}
	if rng.IntN(8) == 0 {
		members = append(members, `"additionalInfo":{"*":{"mtu":`+pick([]string{`"9001"`, "9001"})+`}}`)
	}
	rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return "{" + strings.Join(members, ",") + "}"
}

func generated(t *testing.T, p pieces, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 17))
	var list []string
	for range 1 + rng.IntN(6) {
		list = append(list, compact(t, p.entry(rng)))
	}
	node := []Node{bare, busy}[rng.IntN(2)]
	node.Prefixes = [][]string{nil, {"openshift.io"}, {"intel.com", "openshift.io"}}[rng.IntN(3)]
	ours := [][]Entry{nil, standard}[rng.IntN(2)]
	r := compareToModel(t, list, ours, node)
	again, err := Render(r.Content, ours, r.Owned, node)
	if err != nil || again.SetAside() || !sameValue(again.Content, r.Content) {
		t.Fatalf("rendering again: %v, left out %+v, of\n%s", err, again.LeftOut, r.Content)
	}
}

func compact(t *testing.T, entry string) string {
	t.Helper()
	return entries(t, []byte(`{"resourceList":[`+entry+`]}`))[0]
}

func TestGeneratedAgainstModel(t *testing.T) {
	p, seed := verdictPieces(t), rand.Uint64()
	for i := range uint64(3000) {
		if generated(t, p, seed+i); t.Failed() {
			t.Fatalf("seed %d", seed+i)
		}
	}
}

func FuzzAgainstModel(f *testing.F) {
	f.Add(uint64(1))
	p := verdictPieces(f)
	f.Fuzz(func(t *testing.T, seed uint64) { generated(t, p, seed) })
}

// sriov-network-device-plugin #145: the plugin's own prefix is our resource's too.
func TestPluginPrefix(t *testing.T) {
	const theirs = `{"resourceName":"nic1","selectors":{"vendors":["8086"],"pfNames":["ens803f0"]}}`
	current := []byte(`{"resourceList":[` + theirs + `]}`)
	at := func(name string) []Entry {
		return []Entry{{device.ResourceName(name), []Selector{{[]string{"ena"}, []device.PCIAddress{"0000:00:06.0"}}}, []string{"mine"}}}
	}
	tests := map[string]struct {
		ours     string
		prefixes []string
		clash    bool
	}{
		"the plugin's prefix":            {"openshift.io/nic1", []string{"openshift.io"}, true},
		"the default, of another plugin": {"intel.com/nic1", []string{"openshift.io"}, false},
		"the default":                    {"intel.com/nic1", nil, true},
		"another, no plugin known":       {"openshift.io/nic1", nil, false},
		"one of two plugins":             {"openshift.io/nic1", []string{"intel.com", "openshift.io"}, true},
		"none of two plugins":            {"example.com/nic1", []string{"intel.com", "openshift.io"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			node := here
			node.Prefixes = tt.prefixes
			for _, owned := range [][]device.ResourceName{nil, {device.ResourceName(tt.ours)}} { // owned before the prefix was known
				r, err := Render(current, at(tt.ours), owned, node)
				must(t, err)
				clash := slices.ContainsFunc(r.Problems, func(p nodestate.Problem) bool { return p.Reason == "ResourceClash" && p.NodeENI == "mine" })
				if clash != tt.clash || r.SetAside() || len(r.Owned) == 1 == tt.clash {
					t.Errorf("problems %+v, left out %+v, owned %s; want a clash %t", r.Problems, r.LeftOut, r.Owned, tt.clash)
				}
				if list := entries(t, r.Content); list[len(list)-1] != theirs || !runs(list, node) {
					t.Errorf("entries %s; want theirs last, and a plugin that runs", list)
				}
			}
		})
	}
}
