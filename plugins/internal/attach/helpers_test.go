package attach_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// hostLinks opens a handle in the node's netns, which is closed with the test.
func hostLinks(t *testing.T) *link.Handle {
	t.Helper()
	h, err := link.Open()
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func inNetns(t *testing.T, path string) *link.Handle {
	t.Helper()
	ns, err := link.OpenNetns(path)
	must(t, err)
	defer ns.Close()
	h, err := ns.Open()
	must(t, err)
	return h
}

func inPod(t *testing.T, args *skel.CmdArgs, f func(*link.Handle, link.Link) error) {
	t.Helper()
	h := inNetns(t, args.Netns)
	defer h.Close()
	l, err := h.ByName(args.IfName)
	must(t, err)
	must(t, f(h, l))
}

func moveHome(t *testing.T, args *skel.CmdArgs, name string) {
	t.Helper()
	host, err := link.CurrentNetns()
	must(t, err)
	defer host.Close()
	inPod(t, args, func(h *link.Handle, l link.Link) error { return h.Move(l.Index, host, name) })
}

func squat(t *testing.T, name string) {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}))
}

func unsquat(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(l))
}

func runBinary(t *testing.T, binary, command string, args *skel.CmdArgs) (*types100.Result, uint, string) {
	cmd := exec.Command(binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + args.ContainerID, "CNI_NETNS=" + args.Netns,
		"CNI_IFNAME=" + args.IfName, "CNI_ARGS=" + args.Args, "CNI_PATH=" + args.Path,
	}
	cmd.Stdin = bytes.NewReader(args.StdinData)
	out, err := cmd.Output()
	if err != nil {
		var e types.Error
		if json.Unmarshal(out, &e) != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
		return nil, e.Code, e.Msg
	}
	if command != "ADD" {
		return nil, 0, ""
	}
	return parseResult(t, out), 0, ""
}

func withPrev(t *testing.T, args *skel.CmdArgs, r *types100.Result) *skel.CmdArgs {
	t.Helper()
	var conf map[string]any
	must(t, json.Unmarshal(args.StdinData, &conf))
	conf["prevResult"] = r
	out := *args
	var err error
	out.StdinData, err = json.Marshal(conf)
	must(t, err)
	return &out
}

func copyBinaries(t *testing.T, e *env, names ...string) string {
	t.Helper()
	bin := e.file("bin")
	must(t, os.MkdirAll(bin, 0o755))
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(e.path, n))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(bin, n), data, 0o755))
	}
	return bin
}
