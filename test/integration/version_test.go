package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func (c *cluster) process(plugin, verb, container string, stdin []byte) (int, map[string]any) {
	c.t.Helper()
	path := filepath.Dir(binary(c.t, "multi-eni")) + ":" + filepath.Dir(binary(c.t, "cni/host-local"))
	file := filepath.Join(filepath.Dir(binary(c.t, "multi-eni")), plugin)
	if _, err := os.Stat(file); err != nil {
		file = binary(c.t, "cni/"+plugin)
	}
	cmd := exec.CommandContext(c.t.Context(), file)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_IFNAME=net1", "CNI_NETNS=/run/netns/" + container,
		"CNI_ARGS=" + c.args, "CNI_PATH=" + path, "PATH=" + os.Getenv("PATH"),
	}
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		c.t.Fatal(err)
	}
	if len(out) == 0 {
		return cmd.ProcessState.ExitCode(), nil
	}
	var said map[string]any
	if err := json.Unmarshal(out, &said); err != nil {
		c.t.Fatalf("%s %s of %s said %s: %v", plugin, verb, stdin, out, err)
	}
	return cmd.ProcessState.ExitCode(), said
}

// common reduces a result to the keys that every plugin writes, in every version.
func common(result map[string]any) map[string]any {
	interfaces, _ := result["interfaces"].([]any)
	for _, i := range interfaces {
		if i, ok := i.(map[string]any); ok {
			for _, key := range []string{"mtu", "pciID", "sandbox"} {
				delete(i, key)
			}
		}
	}
	return result
}

func message(said map[string]any) string { return fmt.Sprint(said["msg"]) }

// texts are netconfs with every kind of version and name, without their closing brace, and with their odd fragment.
func texts() map[string]string {
	all := map[string]string{"no version": `{"name":"dataplane"`, "no name": `{"cniVersion":"1.0.0"`}
	for _, v := range []string{
		`""`, `"0.1.0"`, `"0.2.0"`, `"0.3.0"`, `"0.3.1"`, `"0.4.0"`, `"1.0.0"`, `"1.1.0"`, `null`, // known
		`"9.9"`, `"1"`, `"1.0"`, `"v1.0.0"`, `" 1.0.0"`, `"x"`, `1`, `1.0`, `true`, `[]`, `{}`,
	} {
		all["version "+v] = `{"name":"dataplane","cniVersion":` + v
	}
	for _, n := range []string{`""`, `"a b"`, `".x"`, `"x/y"`, `"../x"`, `"ü"`, `null`, `1`} {
		all["name "+n] = `{"cniVersion":"1.0.0","name":` + n
	}
	return all
}

// TestVersionsAsTheReference: multi-eni accepts and answers as host-device does. DEL succeeds after any ADD.
func TestVersionsAsTheReference(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	const ipam = `,"ipam":{"type":"static","addresses":[{"address":"10.0.2.50/24","gateway":"10.0.2.1"},{"address":"fd00:2::50/64"}],` +
		`"routes":[{"dst":"10.60.0.0/16","gw":"10.0.2.1"}]}}`
	must(t, nstest.NewNetns("/run/netns/theirs"))
	must(t, nstest.NewNetns("/run/netns/ours"))
	for name, text := range texts() {
		theirs := []byte(text + `,"type":"host-device","device":"eth1"` + ipam)
		ours := []byte(text + `,"type":"multi-eni","sysfs":"` + c.node.Sysfs + `","select":{"nodeENI":"dataplane-a"}` + ipam)
		want, wantResult := c.process("host-device", "ADD", "theirs", theirs)
		if want == 0 {
			if code, said := c.process("host-device", "DEL", "theirs", theirs); code != 0 {
				t.Fatalf("%s: host-device DEL: %v", name, said)
			}
			l, err := netlink.LinkByName(eni.Name)
			must(t, err)
			must(t, netlink.LinkSetUp(l))
		}
		got, gotResult := c.process("multi-eni", "ADD", "ours", ours)
		if got != want {
			t.Errorf("%s: multi-eni exits with %d, %v; host-device with %d, %v", name, got, gotResult, want, wantResult)
		}
		if got == 0 {
			if diff := cmp.Diff(common(wantResult), common(gotResult)); diff != "" {
				t.Errorf("%s: result (-host-device +multi-eni):\n%s", name, diff)
			}
		}
		for range 2 {
			if code, said := c.process("multi-eni", "DEL", "ours", ours); code != 0 {
				t.Errorf("%s: DEL: %v", name, said)
			}
		}
		if _, err := netlink.LinkByName(eni.Name); err != nil {
			t.Fatalf("%s: after DEL: %v", name, err)
		}
	}
	if records, bad, err := nodestate.AttachmentDir(nodestate.DefaultAttachmentsDir).List(); len(records)+len(bad) > 0 || err != nil {
		t.Errorf("records left: %v, %v, %v", records, bad, err)
	}
}

func TestVersionsOfDelegates(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	c.inventory("10.0.2.15/24", "10.0.2.16/24")
	must(t, nstest.NewNetns("/run/netns/pod"))
	for _, version := range []string{"", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		for delegate, more := range map[string]string{"macvlan": `,"mode":"passthru"`, "host-device": `,"deviceField":"device"`} {
			for _, ipam := range []string{
				`{"type":"eni-ipam"` + map[bool]string{true: `,"coolDown":0`}[delegate == "macvlan"] + `}`,
				`{"type":"host-local","subnet":"10.0.2.0/24"}`,
			} {
				conf := []byte(`{"cniVersion":"` + version + `","name":"dataplane","type":"multi-eni","sysfs":"` + c.node.Sysfs + `","select":{"nodeENI":"dataplane-a"},` +
					`"delegate":{"type":"` + delegate + `"` + more + `},"ipam":` + ipam + `}`)
				code, result := c.process("multi-eni", "ADD", "pod", conf)
				if want := map[bool]string{true: version, false: "0.1.0"}[version != ""]; code != 0 || result["cniVersion"] != want {
					t.Errorf("%s: ADD: %d, %v", conf, code, result)
				}
				if ips, _ := result["ips"].([]any); version >= "0.3.0" && len(ips) != 1 || version < "0.3.0" && result["ip4"] == nil {
					t.Errorf("%s: no address in %v", conf, result)
				}
				if code, said := c.process("multi-eni", "DEL", "pod", conf); code != 0 {
					t.Errorf("%s: DEL: %v", conf, said)
				}
			}
		}
	}
}

// TestVersionsOfENIIPAM: eni-ipam accepts the same texts as host-local.
func TestVersionsOfENIIPAM(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	c.inventory("10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24")
	must(t, nstest.NewNetns("/run/netns/pod"))
	for name, text := range texts() {
		text += `,"type":"macvlan","master":"eth1","ipam":{`
		theirs := []byte(text + `"type":"host-local","ranges":[[{"subnet":"10.0.2.0/24"}]]}}`)
		ours := []byte(text + `"type":"eni-ipam","coolDown":0}}`)
		want, wantResult := c.process("host-local", "ADD", "pod", theirs)
		got, gotResult := c.process("eni-ipam", "ADD", "pod", ours)
		switch {
		case got != want:
			t.Errorf("%s: eni-ipam exits with %d, %v; host-local with %d, %v", name, got, gotResult, want, wantResult)
		case got == 0:
			if diff := cmp.Diff(wantResult["cniVersion"], gotResult["cniVersion"]); diff != "" {
				t.Errorf("%s: version (-host-local +eni-ipam):\n%s", name, diff)
			}
		case !strings.HasPrefix(message(gotResult), "eni-ipam "):
			t.Errorf("%s: %v, want the plugin's name and the code first", name, gotResult)
		}
		if want == 0 {
			c.process("host-local", "DEL", "pod", theirs)
		}
		if code, said := c.process("eni-ipam", "DEL", "pod", ours); code != 0 {
			t.Errorf("%s: DEL: %v", name, said)
		}
	}
	if held, err := leases.Dir(leases.DefaultDir).Held(); held != nil || err != nil {
		t.Errorf("held after DEL: %v, %v", held, err)
	}
}

// TestDELByTheRecordAlone: DEL releases by the record, whatever the text. Without a record, the message quotes the text.
func TestDELByTheRecordAlone(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	must(t, nstest.NewNetns("/run/netns/pod"))
	add := []byte(`{"cniVersion":"1.1.0","name":"dataplane","type":"multi-eni","sysfs":"` + c.node.Sysfs + `","select":{"nodeENI":"dataplane-a"}}`)
	for _, text := range []string{
		"", " ", "null", "[]", "{", "x", `"x"`, "{}", `{"cniVersion":7}`, `{"cniVersion":"9.9","name":"a b"}`, `{"name":"other","select":1,"delegate":"x"}`,
		`{"ipam":{"type":"../../x"},"type":"multi-eni"}`, string(add) + "}",
	} {
		if code, said := c.process("multi-eni", "ADD", "pod", add); code != 0 {
			t.Fatalf("ADD: %v", said)
		}
		if code, said := c.process("multi-eni", "DEL", "pod", []byte(text)); code != 0 {
			t.Errorf("DEL with %q: %v", text, said)
		}
		if _, err := netlink.LinkByName(eni.Name); err != nil {
			t.Fatalf("after DEL with %q: %v", text, err)
		}
	}
	code, said := c.process("multi-eni", "DEL", "pod", []byte("not a netconf"))
	if code == 0 || !strings.HasPrefix(message(said), `multi-eni 6: decode netconf "not a netconf": `) {
		t.Errorf("DEL without record or netconf: %d, %v", code, said)
	}
}

// TestFieldCaseVersion: a NAD of cniVersion 0.3.0, as there are in the field.
func TestFieldCaseVersion(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	c.inventory("10.0.2.15/24")
	must(t, nstest.NewNetns("/run/netns/pod"))
	conf := []byte(`{"cniVersion":"0.3.0","name":"du","type":"multi-eni","select":{"nodeENI":"dataplane-a"},"ipam":{"type":"eni-ipam"},` +
		`"sysfs":"` + c.node.Sysfs + `"}`)
	code, result := c.process("multi-eni", "ADD", "pod", conf)
	if code != 0 || result["cniVersion"] != "0.3.0" {
		t.Errorf("ADD: %d, %v", code, result)
	}
	must(t, c.reach("/run/netns/pod", "10.0.2.15/24", "10.0.2.1"))
	if code, said := c.process("multi-eni", "CHECK", "pod", conf); code == 0 || !strings.HasPrefix(message(said), `multi-eni 1: cniVersion: "0.3.0"`) {
		t.Errorf("CHECK: %d, %v; want it refused as before 0.4.0", code, said)
	}
	if code, said := c.process("multi-eni", "DEL", "pod", conf); code != 0 {
		t.Errorf("DEL: %v", said)
	}
}
