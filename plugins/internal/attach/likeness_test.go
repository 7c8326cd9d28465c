package attach_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// likeness replaces plugins that this machine lacks. It reads the keys that they read.
type likeness struct {
	invoke.Exec
	hostDevice string
	got        string
}

func (f *likeness) FindInPath(plugin string, paths []string) (string, error) {
	if plugin == "ipvlan" || plugin == "sriov" || plugin == "other" || plugin == "quiet" {
		return plugin, nil
	}
	return f.Exec.FindInPath(plugin, paths)
}

func (f *likeness) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	var conf struct {
		CNIVersion, Name, Master, Device, DeviceID string
		MTU                                        int
		DNS, IPAM, PrevResult                      json.RawMessage
		RuntimeConfig                              struct{ Mac string }
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, err
	}
	switch path {
	case "ipvlan": // an interface of its own with the master's MAC
		if env["CNI_COMMAND"] != "ADD" {
			return nil, nstest.In(env["CNI_NETNS"], func() error {
				l, err := netlink.LinkByName(env["CNI_IFNAME"])
				if err != nil { // none is left
					return nil //nolint:nilerr // DEL is idempotent
				}
				return netlink.LinkDel(l)
			})
		}
		out := fmt.Sprintf(`{"cniVersion":"1.1.0","interfaces":[{"name":%q,"mac":%q,"sandbox":%q}],"ips":[]}`, env["CNI_IFNAME"], eniA.MAC, env["CNI_NETNS"])
		return []byte(out), nstest.In(env["CNI_NETNS"], func() error {
			mac, _ := net.ParseMAC(eniA.MAC)
			la := netlink.NewLinkAttrs()
			la.Name, la.HardwareAddr, la.MTU = env["CNI_IFNAME"], mac, max(conf.MTU, 1200)
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "peer"})
		})
	case "quiet": // no link, and nothing is left
		f.got = string(stdin) + env["CNI_ARGS"]
		return fmt.Appendf(nil, `{"cniVersion":"1.1.0","interfaces":[{"name":%q,"mac":%q,"sandbox":"/x"}],"ips":[]}`, env["CNI_IFNAME"], conf.RuntimeConfig.Mac), nil
	case "sriov", "other": // the device itself; sriov also sets its MAC
		device := conf.Device
		if path == "sriov" {
			device = "vf0"
		} else {
			f.got = string(stdin) + env["CNI_ARGS"]
		}
		text, err := json.Marshal(map[string]any{
			"cniVersion": conf.CNIVersion, "name": conf.Name, "type": "host-device", "device": device, "ipam": conf.IPAM, "dns": conf.DNS,
		})
		if err != nil {
			return nil, err
		}
		text = []byte(strings.ReplaceAll(string(text), `"ipam":null`, `"ipam":{}`))
		out, err := f.Exec.ExecPlugin(ctx, f.hostDevice, text, environ)
		mac := conf.RuntimeConfig.Mac
		if path == "sriov" && mac != "" && env["CNI_COMMAND"] == "ADD" && err == nil {
			err = nstest.In(env["CNI_NETNS"], func() error {
				l, err := netlink.LinkByName(env["CNI_IFNAME"])
				if err != nil {
					return err
				}
				hw, err := net.ParseMAC(mac)
				if err != nil {
					return err
				}
				return netlink.LinkSetHardwareAddr(l, hw)
			})
		}
		return out, err
	}
	return f.Exec.ExecPlugin(ctx, path, stdin, environ)
}
