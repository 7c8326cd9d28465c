package attach_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var faults = []string{"missing", "empty", "torn", "other version", "other version, other keys", "unreadable", "untrusted"}

func spoil(t *testing.T, fault, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	switch fault {
	case "missing":
		must(t, os.Remove(path))
	case "empty":
		must(t, os.WriteFile(path, nil, 0o600))
	case "torn":
		must(t, os.WriteFile(path, content[:len(content)/2], 0o600))
	case "other version":
		must(t, os.WriteFile(path, regexp.MustCompile(`"schemaVersion": *1`).ReplaceAll(content, []byte(`"schemaVersion": 2`)), 0o600))
	case "other version, other keys":
		must(t, os.WriteFile(path, []byte(`{"schemaVersion":7,"device":"x","leases":7}`), 0o600))
	case "unreadable": // larger than any reader takes
		must(t, os.WriteFile(path, make([]byte, 5<<20), 0o600))
	case "untrusted":
		must(t, os.Chmod(path, 0o666))
	}
}

// outcome has the codes of the calls for a pod, which has the first device, and for
// another pod after a file is spoilt; 0 is success.
type outcome struct {
	// other is another pod's ADD of another device, same its ADD of the first device (with
	// Leases: of one more address), and del the first pod's DEL.
	other, same, del uint
	// stays: the file is unchanged after a GC for which no pod is valid, and that DEL.
	stays bool
}

// kinds has the outcome of each fault in each kind of file. The plugin reads no
// Checkpoint. The Policy is in TestUnusablePolicy.
var kinds = map[string]struct {
	path     func(e *env, pod *skel.CmdArgs) string
	outcomes map[string]outcome
}{
	"Attachment": {func(e *env, pod *skel.CmdArgs) string { return e.file("records", pod.ContainerID+"-net1.json") }, map[string]outcome{
		"missing":                   {same: 104},
		"empty":                     {same: 104},
		"torn":                      {same: 104},
		"other version":             {same: 101, del: 999, stays: true},
		"other version, other keys": {other: 101, same: 101, del: 999, stays: true},
		"unreadable":                {other: 101, same: 101},
		"untrusted":                 {same: 104, del: 999, stays: true}, // see TestHostileRecords
	}},
	"Restore": {func(e *env, _ *skel.CmdArgs) string { return e.file("records", "restore", eniB.PCI+".json") }, map[string]outcome{
		"missing":                   {same: 101},
		"empty":                     {same: 101},
		"torn":                      {same: 101},
		"other version":             {other: 101, same: 101, stays: true},
		"other version, other keys": {other: 101, same: 101, stays: true},
		"unreadable":                {same: 101},
		"untrusted":                 {other: 999, same: 101, stays: true},
	}},
	"Inventory": {func(e *env, _ *skel.CmdArgs) string { return e.file("inventory.json") }, map[string]outcome{
		"missing":                   {other: 11, same: 11},
		"empty":                     {other: 11, same: 11, stays: true},
		"torn":                      {other: 11, same: 11, stays: true},
		"other version":             {other: 11, same: 11, stays: true},
		"other version, other keys": {other: 11, same: 11, stays: true},
		"unreadable":                {other: 11, same: 11, stays: true},
		"untrusted":                 {other: 11, same: 11, stays: true},
	}},
	"Leases": {func(e *env, _ *skel.CmdArgs) string {
		return filepath.Join(e.file("leases"), e.inv.BootID, e.inv.Devices[len(e.inv.Devices)-1].ENIID.String()+".json")
	}, map[string]outcome{
		"missing":                   {}, // none has ever been given
		"empty":                     {}, // it is rebuilt from the records
		"torn":                      {},
		"other version":             {same: 101, stays: true},
		"other version, other keys": {same: 101, stays: true},
		"unreadable":                {},
		"untrusted":                 {},
	}},
}

// TestEveryKindOfFile: an unreadable file holds the devices and addresses that it names,
// and stays. It stops no verb for others.
func TestEveryKindOfFile(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	shares := e.sharing(map[string]any{"coolDown": 0}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "10.0.2.18/24")
	for name, k := range kinds {
		for _, fault := range faults {
			want, ok := k.outcomes[fault]
			if !ok {
				t.Errorf("%s has no row for %q", name, fault)
				continue
			}
			conf := e.selectA()
			if name == "Leases" {
				conf = shares
				must(t, os.RemoveAll(e.file("leases")))
			}
			pod := e.pod(conf)
			e.add(pod)
			if name == "Restore" {
				must(t, e.records().SaveRestore(nodestate.Restore{BootID: e.inv.BootID, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:07.0"}}))
			}
			path := k.path(e, pod)
			whole, err := os.ReadFile(path)
			must(t, err)
			spoil(t, fault, path)
			spoilt, _ := os.ReadFile(path) // "" when it is missing
			same, other := e.pod(conf), e.pod(map[string]any{"select": map[string]any{"nodeENI": "b"}})
			got := outcome{other: e.code("ADD", other), same: e.code("ADD", same)}
			if got.other == 0 {
				e.del(other)
			}
			if got.same == 0 {
				e.del(same)
			}
			e.code("GC", &skel.CmdArgs{Path: e.path, StdinData: e.conf(map[string]any{"name": "of no pod", "cni.dev/valid-attachments": []any{}})})
			got.del = e.code("DEL", pod)
			if now, err := os.ReadFile(path); err == nil && string(now) == string(spoilt) && fault != "missing" {
				got.stays = true
			}
			if got != want {
				t.Errorf("%s, %s: %+v, want %+v", name, fault, got, want)
			}
			if name == "Inventory" || got.stays { // the version that understands it is back
				must(t, os.RemoveAll(path))
				must(t, os.WriteFile(path, whole, 0o600))
			}
			e.del(pod)
			must(t, e.records().RemoveRestore("0000:00:07.0"))
		}
	}
}

func (e *env) code(verb string, args *skel.CmdArgs) uint {
	e.t.Helper()
	_, err := run(&attach.Plugin{}, verb, args)
	var ce *types.Error
	switch {
	case errors.As(err, &ce):
		return ce.Code
	case err != nil:
		e.t.Fatalf("%s: %v", verb, err)
	}
	return 0
}

func TestKindsAreComplete(t *testing.T) {
	all := []string{}
	files, err := filepath.Glob("../../../pkg/*/*.go") // nodestate and leases
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	field := regexp.MustCompile(`(?ms)^type (\w+) struct \{\n(?:\t[^\n]*\n|\n)*?\tSchemaVersion +int `)
	for _, name := range files {
		source, err := os.ReadFile(name)
		must(t, err)
		for _, m := range field.FindAllSubmatch(source, -1) {
			if kind := string(m[1]); kind != "Policy" && kind != "Checkpoint" {
				all = append(all, kind)
			}
		}
	}
	slices.Sort(all)
	var rows []string
	for kind := range kinds {
		rows = append(rows, kind)
	}
	slices.Sort(rows)
	equal(t, rows, all, "kinds of files")
}

// TestOtherVersionOfAnEarlierBoot: an attachment ends with its boot. DEL uses the netconf
// and removes the record, and ADD does not wait.
func TestOtherVersionOfAnEarlierBoot(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	args := e.pod(e.selectA())
	must(t, os.MkdirAll(e.file("records"), 0o700))
	path := e.file("records", args.ContainerID+"-net1.json")
	must(t, os.WriteFile(path, []byte(`{"schemaVersion":2,"bootID":"earlier","device":{"pciAddress":"`+eniA.PCI+`"}}`), 0o600))
	e.roundTrip(e.selectA())
	e.del(args)
	if _, err := os.Stat(path); err == nil {
		t.Error("the record is still there")
	}
}

// TestOtherVersionKeepsItsLeases: GC keeps the leases of an attachment with an unreadable
// record.
func TestOtherVersionKeepsItsLeases(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24")
	pod := e.pod(conf)
	e.add(pod)
	path := e.file("records", pod.ContainerID+"-net1.json")
	whole, err := os.ReadFile(path)
	must(t, err)
	spoil(t, "other version", path)
	before := e.leases()
	conf["cni.dev/valid-attachments"] = []any{}
	if code := e.code("GC", &skel.CmdArgs{Path: e.path, StdinData: e.conf(conf)}); code != 0 {
		t.Errorf("GC: code %d", code)
	}
	equal(t, before, e.leases(), "leases")
	must(t, os.WriteFile(path, whole, 0o600))
	e.del(pod)
}
