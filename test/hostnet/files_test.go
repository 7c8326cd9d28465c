//go:build hostnet

package hostnet

import (
	"os"
	"strings"
	"testing"
	"time"
)

const hostRoot = "/run/hostroot"

// install runs multi-enid install --host-network=mode on a host where the unit runs. veth stands for the driver ena.
func (h *host) install(mode, unit string) {
	h.Helper()
	h.imds()
	h.sh("mkdir -p %[1]s/etc %[1]s/sys/fs/cgroup/system.slice/%[2]s && { mountpoint -q %[1]s/etc || mount --bind /etc %[1]s/etc; }", hostRoot, unit)
	out := h.sh("AWS_EC2_METADATA_SERVICE_ENDPOINT=http://%s '%s' install --mkdir --to=/run/cnibin --policy= --host-network=%s --host-root=%s", imdsAddress,
		binary(h, "multi-enid"), mode, hostRoot)
	h.Log(out)
}

var files = []string{"/etc/systemd/network/05-multi-eni.network", "/etc/systemd/networkd.conf.d/80-multi-eni.conf",
	"/etc/NetworkManager/conf.d/80-multi-eni.conf"}

func (h *host) stand(path string) (back func()) {
	h.Helper()
	before, err := os.ReadFile(path)
	h.do(err)
	h.write(path, strings.NewReplacer("Driver=ena", "Driver=veth", "driver:ena", "driver:veth").Replace(string(before)))
	return func() { h.write(path, string(before)) }
}

func (h *host) gone() {
	h.Helper()
	for _, f := range files {
		if missing(f) == "" {
			h.Errorf("%s is still there", f)
		}
	}
}

// cniRules have the shape of the VPC CNI's rules, which nothing else may delete.
var cniRules = []string{"not to 10.0.0.0/16 fwmark 0x80/0x80 lookup main priority 1024", "to 10.0.1.200 lookup main priority 512",
	"from 10.0.1.200 to 10.0.0.0/16 lookup 7 priority 1536"}

func (h *host) addCNIRules() {
	h.Helper()
	for _, r := range cniRules {
		h.sh("ip rule add %s", r)
	}
}

func (h *host) countCNIRules() int {
	h.Helper()
	n := 0
	for _, priority := range []string{"512:", "1024:", "1536:"} {
		n += len(lines(h.sh("ip rule"), priority))
	}
	return n
}

// TestFilesNetworkd: the files keep networkd off the ENIs of pods and foreign rules, but not off the primary.
func TestFilesNetworkd(t *testing.T) {
	if outside(t) {
		return
	}
	h, networkd := ready(t, 0, (*host).dhcpAll, primary, owned, shared)
	h.install("write", "systemd-networkd.service")
	back := h.stand(files[0])
	h.stop(networkd)
	h.sh("ip addr flush dev %s; ip addr flush dev %s", owned.name, shared.name) // as after a boot
	networkd = h.networkd()
	for _, e := range []eni{owned, shared} {
		h.has("unmanaged", "networkctl --no-pager list %s", e.name)
	}
	h.says("systemd-networkd.service", "no file keeps systemd-networkd off the primary ENI's link "+primary.name)
	h.addCNIRules()
	start := h.mark()
	h.scene(nothing)
	h.untouched(start)
	if n := h.countCNIRules(); n != len(cniRules) {
		h.Errorf("%d of the VPC CNI's %d rules are left:\n%s", n, len(cniRules), h.sh("ip rule"))
	}
	for _, e := range []eni{owned, shared} {
		if out := h.sh("ip -4 addr show dev %s", e.name); out != "" && strings.Contains(out, "inet ") {
			h.Errorf("%s has host addresses:\n%s", e.name, out)
		}
	}
	h.again(networkd, h.networkd)
	if n := h.countCNIRules(); n != len(cniRules) {
		h.Errorf("after a restart of networkd %d of the VPC CNI's %d rules are left", n, len(cniRules))
	}
	back()
	h.install("remove", "systemd-networkd.service")
	h.gone()
}

func TestFilesNetworkManager(t *testing.T) {
	if outside(t) {
		return
	}
	h := bootHost(t, 0, primary, owned, shared)
	h.networkManager()
	h.install("write", "NetworkManager.service")
	back := h.stand(files[2])
	start := h.mark()
	h.sh("nmcli general reload")
	h.has(owned.name+":unmanaged", "nmcli -t -f DEVICE,STATE device")
	h.has(shared.name+":unmanaged", "nmcli -t -f DEVICE,STATE device")
	h.addCNIRules()
	h.scene(nothing)
	h.untouched(start)
	h.has(owned.name+":unmanaged", "nmcli -t -f DEVICE,STATE device")
	h.has(primary.name+":connected", "nmcli -t -f DEVICE,STATE device")
	if n := h.countCNIRules(); n != len(cniRules) {
		h.Errorf("%d of the VPC CNI's %d rules are left", n, len(cniRules))
	}
	back()
	h.install("remove", "NetworkManager.service")
	h.gone()
}

func (h *host) doctor(unit string) string {
	h.Helper()
	h.imds()
	h.sh("mkdir -p %s/fs/cgroup/system.slice/%s /run/nodeenis", sysTree, unit)
	out := h.sh("AWS_EC2_METADATA_SERVICE_ENDPOINT=http://%s '%s' doctor --nodeeni-source=dir:/run/nodeenis --sysfs=%s --node-name=host || true", imdsAddress,
		binary(h, "multi-enid"), sysTree)
	return strings.Join(lines(out, "host network"), "")
}

func (h *host) says(unit, word string) {
	h.Helper()
	if out := h.doctor(unit); !strings.Contains(out, word) {
		h.Errorf("doctor does not say %q:\n%s", word, out)
	}
}

// TestNameMatchesAltNames: documents forbid Name=!ens5, since another alternative name unmanages the primary.
func TestNameMatchesAltNames(t *testing.T) {
	if outside(t) {
		return
	}
	h := bootHost(t, 0, primary, owned)
	h.dhcpAll()
	h.write(files[0], "[Match]\nDriver=veth ena\nName=!"+primary.name+"\n[Link]\nUnmanaged=yes\n")
	h.says("systemd-networkd.service", files[0]+" makes systemd-networkd leave the primary ENI's link "+primary.name+" alone")
	h.start("networkd", "/lib/systemd/systemd-networkd")
	for _, e := range []eni{primary, owned} {
		h.has("unmanaged", "networkctl --no-pager list %s || true", e.name)
	}
}

// TestDriverMatchesPrimary: for NetworkManager, a driver alone unmanages the primary, and nmcli's setting ends with a pod.
func TestDriverMatchesPrimary(t *testing.T) {
	if outside(t) {
		return
	}
	h := bootHost(t, 0, primary, owned, shared)
	h.networkManager()
	h.daemon()
	h.sh("nmcli device set %s managed no", owned.name)
	h.has(owned.name+":unmanaged", "nmcli -t -f DEVICE,STATE device")
	h.pairs(owned, 1, 0, nothing)
	h.has(owned.name+":connected", "nmcli -t -f DEVICE,STATE device")
	h.write(files[2], "[keyfile]\nunmanaged-devices=driver:veth;driver:ena\n")
	h.says("NetworkManager.service", files[2]+" makes NetworkManager leave the primary ENI's link "+primary.name+" alone")
	h.sh("nmcli general reload")
	h.has(primary.name+":unmanaged", "nmcli -t -f DEVICE,STATE device")
}

// TestForeignRules shows the fault that networkd.conf.d mends: networkd deletes foreign rules, here when it starts.
func TestForeignRules(t *testing.T) {
	if outside(t) {
		return
	}
	h, networkd := ready(t, 0, (*host).dhcpAll, primary, owned, shared)
	h.says("systemd-networkd.service", "systemd-networkd removes rules and routes that others have made")
	h.addCNIRules()
	h.stop(networkd)
	h.networkd()
	h.eventually(5*time.Second, func() string {
		if n := h.countCNIRules(); n > 0 {
			return "networkd leaves rules of others"
		}
		return ""
	})
}
