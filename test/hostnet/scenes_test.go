//go:build hostnet

package hostnet

import (
	"strings"
	"testing"
	"time"
)

const (
	pairs = 100
	// pause is longer than networkd needs for a lease, so that an ADD meets a link in any state.
	pause = 250 * time.Millisecond
)

// scene is common to all hosts: the primary is up first, pods come and go, and in the end nothing is left to do.
func (h *host) scene(between func(i int)) {
	h.Helper()
	h.busy(between)
	h.restful()
}

func (h *host) busy(between func(i int)) {
	h.Helper()
	start := h.mark()
	d := h.daemon()
	h.pairs(owned, pairs, pause, between)
	h.sharing(shared, 10)
	h.clean(owned, shared)
	h.untouched(start)
	h.calm(d)
}

func bootHost(t *testing.T, t1 int, enis ...eni) *host {
	t.Helper()
	h := newHost(t)
	for _, e := range enis {
		h.plug(e)
	}
	h.lease(t1, enis...)
	h.bus()
	h.udev()
	return h
}

func ready(t *testing.T, t1 int, files func(*host), enis ...eni) (h *host, networkd *output) {
	t.Helper()
	h = bootHost(t, t1, enis...)
	files(h)
	return h, h.networkd()
}

// TestNetworkdBoot: the ENIs exist before networkd starts, which asks for leases on all.
func TestNetworkdBoot(t *testing.T) {
	if outside(t) {
		return
	}
	h, _ := ready(t, 0, (*host).dhcpAll, primary, owned, shared)
	h.has("routable", "networkctl --no-pager list %s", owned.name)
	h.scene(nothing)
	from := h.mark()
	for range 5 {
		h.sh("networkctl reconfigure %s %s", owned.name, shared.name)
		time.Sleep(2 * time.Second)
	}
	h.brief(from, owned, shared)
}

func TestNetworkdHotplug(t *testing.T) {
	if outside(t) {
		return
	}
	h, _ := ready(t, 0, (*host).dhcpAll, primary)
	h.plug(owned)
	h.plug(shared)
	h.lease(0, owned, shared)
	h.scene(nothing)
}

// TestLeaseRenewal: leases are renewed each 5 s, and networkd then rewrites its routes.
func TestLeaseRenewal(t *testing.T) {
	if outside(t) {
		return
	}
	h, _ := ready(t, 5, (*host).dhcpAll, primary, owned, shared)
	h.busy(nothing)
	from := h.mark()
	time.Sleep(20 * time.Second)
	h.brief(from, owned, shared)
}

// TestRouterOften, TestRouterRare, TestRouterAsked: no manager handles the ENIs of pods, so the kernel listens to
// routers on them: one that advertises each 4 to 8 s, one each 22 to 30 s, and one only when asked.
func TestRouterOften(t *testing.T) { router(t, 4, 8) }
func TestRouterRare(t *testing.T)  { router(t, 22, 30) }
func TestRouterAsked(t *testing.T) { router(t, 0, 0) }

func router(t *testing.T, minimum, maximum int) {
	t.Helper()
	if outside(t) {
		return
	}
	h, _ := ready(t, 0, (*host).dhcpPrimary, primary, owned, shared)
	for _, e := range []eni{primary, owned, shared} {
		h.advertise(e, minimum, maximum)
	}
	h.sh("ip link set %s up; ip link set %s up", owned.name, shared.name)
	h.has("proto ra", "ip -6 route show default dev %s", owned.name)
	h.has("mngtmpaddr", "ip -6 addr show dev %s", shared.name)
	h.scene(nothing)
}

// TestNetworkdAgain: networkd is restarted and reloaded. It then deletes all other rules, so ours must come back.
func TestNetworkdAgain(t *testing.T) {
	if outside(t) {
		return
	}
	h, networkd := ready(t, 0, (*host).dhcpAll, primary, owned, shared)
	h.scene(func(i int) {
		switch i {
		case 20, 60:
			networkd = h.again(networkd, h.networkd)
		case 40:
			h.sh("networkctl reconfigure %s %s", owned.name, shared.name)
		case 80:
			h.sh("networkctl reload && networkctl renew %s", shared.name)
		default:
			return
		}
		if why := await(time.Second, func() string { return h.unruled(shared) }); why != "" {
			h.Errorf("pair %d: a second later %s", i, why)
		}
	})
}

// TestNetworkManager: NetworkManager asks for leases on all links, and is restarted.
func TestNetworkManager(t *testing.T) {
	if outside(t) {
		return
	}
	h := bootHost(t, 0, primary, owned, shared)
	nm := h.networkManager()
	h.has(owned.name+":connected", "nmcli -t -f DEVICE,STATE device")
	h.scene(func(i int) {
		if i == 30 || i == 70 {
			nm = h.again(nm, h.networkManager)
		}
	})
}

// TestEC2NetUtils: amazon-ec2-net-utils repeatedly writes networkd files for each ENI, with rules, table and /32 addresses.
func TestEC2NetUtils(t *testing.T) {
	if outside(t) {
		return
	}
	h, _ := ready(t, 0, (*host).ec2NetUtils, primary, owned, shared)
	h.imds()
	for _, e := range []eni{primary, owned, shared} {
		h.refresh(e)
	}
	h.has("10.0.2.100/32", "ip addr show dev %s", shared.name)
	h.has("lookup 10001", "ip rule")
	// A daemon that finds ENIs by IMDS must not take them for the VPC CNI's.
	for _, e := range []eni{owned, shared} {
		if why := h.foreign(e); why != "" {
			h.Errorf("%s counts as a foreign owner's: %s", e.name, why)
		}
	}
	h.scene(func(i int) {
		if i%25 == 24 {
			h.refresh(owned)
			h.refresh(shared)
		}
	})
	if out := h.sh("ip -4 addr show dev %s", shared.name); strings.Contains(out, "/32") {
		h.Errorf("the host has addresses that pods lease:\n%s", out)
	}
}
