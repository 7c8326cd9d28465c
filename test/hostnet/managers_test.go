//go:build hostnet

package hostnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" ` +
	`"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>
`

func (h *host) bus() {
	h.Helper()
	h.write("/run/dbus/system.conf", busConfig)
	h.start("dbus", "dbus-daemon", "--config-file=/run/dbus/system.conf", "--nofork", "--nopidfile")
	h.eventually(settle, func() string { return missing("/run/dbus/system_bus_socket") })
}

func missing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return err.Error()
	}
	return ""
}

func (h *host) udev() {
	h.Helper()
	h.start("udevd", "/lib/systemd/systemd-udevd")
	h.eventually(settle, func() string { return missing("/run/udev/control") })
	h.sh("udevadm trigger --action=add --subsystem-match=net && udevadm settle")
}

func (h *host) networkd() *output {
	h.Helper()
	o := h.start("networkd", "/lib/systemd/systemd-networkd")
	h.has("State: routable (configured)", "networkctl status %s || true", primary.name)
	return o
}

// again restarts a manager. networkd 252 itself drops the primary's lease for a moment at its start, which is excused.
func (h *host) again(o *output, start func() *output) *output {
	h.Helper()
	from := h.mark()
	h.stop(o)
	o = start()
	h.eventually(settle, func() string {
		return map[bool]string{false: "the primary has no default route"}[h.sh("ip -4 route show default dev %s", primary.name) != ""]
	})
	h.excused = append(h.excused, [2]int{from, h.mark()})
	return o
}

func (h *host) networkManager() *output {
	h.Helper()
	h.write("/etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\nauth-polkit=false\ndns=none\n[logging]\nlevel=INFO\n")
	o := h.start("NetworkManager", "NetworkManager", "--no-daemon")
	h.has(primary.name+":connected", "nmcli -t -f DEVICE,STATE device || true")
	h.has("default via", "ip route show default dev %s", primary.name)
	return o
}

// dhcpAll is EC2 hosts' file by which networkd asks for leases on all ENIs; it matches the driver, here veth.
func (h *host) dhcpAll() {
	h.write("/etc/systemd/network/80-ec2.network", "[Match]\nDriver=veth\n[Network]\nDHCP=yes\nIPv6DuplicateAddressDetection=0\n"+
		"[DHCPv4]\nUseHostname=no\n[DHCPv6]\nWithoutRA=solicit\n")
}

func (h *host) dhcpPrimary() {
	h.write("/etc/systemd/network/10-primary.network", "[Match]\nMACAddress="+primary.mac+"\n[Network]\nDHCP=ipv4\n[DHCPv4]\nUseHostname=no\n")
}

// ec2NetUtils installs the package amazon-ec2-net-utils, with veth for the drivers of EC2's links.
func (h *host) ec2NetUtils() {
	h.Helper()
	from := filepath.Join(repo(h), "bin/hostnet/amazon-ec2-net-utils")
	if why := missing(from); why != "" {
		h.Fatalf("%s; run: test/hostnet/prepare unpack", why)
	}
	h.sh("sed 's/Driver=.*/Driver=veth/; /MTUBytes/d' %s/usr/lib/systemd/network/80-ec2.network > /lib/systemd/network/80-ec2.network", from)
	h.sh("mkdir -p /run/ec2 && cp -a %s/usr/share/amazon-ec2-net-utils /run/ec2/lib && cp %s/usr/bin/setup-policy-routes /run/ec2/", from, from)
	// Without syslog logger(1) fails, and the script with it.
	h.write("/run/ec2/bin/logger", "#!/bin/sh\necho \"$@\" >> /run/ec2/log\n")
	h.sh("chmod +x /run/ec2/bin/logger; touch /run/ec2/log")
}

// refresh is one run of ec2-net-utils' refresh-policy-routes@.service, which its timer starts each minute. The
// script reports its faults by its exit status, which the unit accepts.
func (h *host) refresh(e eni) {
	h.Helper()
	h.sh("PATH=/run/ec2/bin:$PATH LIBDIR_OVERRIDE=/run/ec2/lib timeout 60 bash /run/ec2/setup-policy-routes %s start >>/run/ec2/out 2>&1 || { tail -5 "+
		"/run/ec2/out; exit 1; }", e.name)
}

func repo(h *host) string {
	h.Helper()
	dir, err := os.Getwd()
	h.do(err)
	return filepath.Dir(filepath.Dir(dir))
}

func lines(text string, words ...string) []string {
	var found []string
next:
	for line := range strings.Lines(text) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, fmt.Sprint(line))
	}
	return found
}
