package onenode

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestIPAM: pods get addresses from the real whereabouts and dhcp daemon, and give them back when they end.
func TestIPAM(t *testing.T) {
	a := sharedENI(addresses{})
	s := newStageOf(t, a)
	s.must(s.host.AddPeerAddress(a.ip(1) + "/24"))
	s.must(s.declare(a))
	cluster.Eventually(t, "ready", settle, s.lists(a, nodestate.PhaseReady))
	for name, start := range map[string]func(*stage, eni) addressPlugin{"whereabouts": startWhereabouts, "dhcp": startDHCP} {
		p := start(s, a)
		for way, delegate := range map[string]map[string]any{"shared": {"type": "macvlan"}, "exclusive": nil} {
			pods := []string{name + "-" + way + "-1"}
			if delegate != nil {
				pods = append(pods, name+"-"+way+"-2")
			}
			s.shared = map[string]any{"cniVersion": "1.0.0", "name": name, "type": "multi-eni", "select": map[string]any{"nodeENI": a.letter}, "ipam": p.ipam,
				"sysfs": s.host.Sysfs, "dataDir": string(s.attachments()), "inventory": s.paths.inventory}
			if delegate != nil {
				s.shared["delegate"] = delegate
			}
			s.must(os.WriteFile(stageConf, []byte(s.netconf(map[string]any{"cniVersion": "1.0.0", "name": "dataplane", "type": "multi-eni"})), 0o644))
			has := s.haveOwn(pods...)
			var given []string
			for pod, own := range has {
				r, err := s.record(pod)
				s.must(err)
				for _, address := range own {
					ip := netip.MustParsePrefix(address).Addr()
					given = append(given, ip.String())
					s.must(nstest.Reach(t.Context(), r.Netns.Path, ip, s.host.VPC, netip.MustParseAddr(a.ip(1))))
				}
			}
			slices.Sort(given)
			s.must(want(len(given), len(pods)))
			cluster.Eventually(t, name+" has given", settle, p.holds(given...))
			for _, pod := range pods {
				s.must(s.delete(pod))
			}
			cluster.Eventually(t, "release", settle, s.unheld)
			cluster.Eventually(t, name+" has back what it gave", settle, p.holds())
		}
	}
	s.must(s.withdraw(a))
}

// addressPlugin is a running IPAM plugin: its netconf, and a check of the addresses that are still out.
type addressPlugin struct {
	ipam  map[string]any
	holds func(addresses ...string) func() error
}

func startWhereabouts(s *stage, e eni) addressPlugin {
	s.Helper()
	s.installPlugin("kube/whereabouts/whereabouts")
	manifests, err := nstest.Binary("kube/whereabouts/crds")
	s.must(err)
	files, err := filepath.Glob(filepath.Join(manifests, "*.yaml"))
	s.must(err)
	for _, f := range files {
		for _, o := range cluster.ReadFile(s.T, f) {
			switch o.GetKind() {
			case "CustomResourceDefinition":
				s.cluster().AwaitServed(s.T, s.cluster().Apply(s.T, o))
			case "ServiceAccount", "ClusterRole", "ClusterRoleBinding":
				s.cluster().Apply(s.T, o)
			}
		}
	}
	// As its own installer does: it refuses every call without this file.
	const conf = "/etc/cni/net.d/whereabouts.d/whereabouts.conf"
	s.must(os.MkdirAll(filepath.Dir(conf), 0o755))
	s.Cleanup(func() { s.must(os.RemoveAll(filepath.Dir(conf))) })
	s.must(os.WriteFile(conf, fmt.Appendf(nil, `{"datastore":"kubernetes","kubernetes":{"kubeconfig":%q}}`,
		s.WriteKubeconfig(s.T, "kube-system", "whereabouts")), 0o600))
	pools := s.cluster().Dynamic.Resource(schema.GroupVersionResource{Group: "whereabouts.cni.cncf.io", Version: "v1alpha1", Resource: "ippools"})
	return addressPlugin{
		ipam: map[string]any{"type": "whereabouts", "range": e.cidr(), "range_start": e.ip(50), "range_end": e.ip(59), "gateway": e.ip(1)},
		holds: func(addresses ...string) func() error {
			return func() error {
				list, err := pools.List(s.Context(), metav1.ListOptions{})
				if err != nil {
					return err
				}
				var have []string
				for _, pool := range list.Items {
					allocations, _, err := unstructured.NestedMap(pool.Object, "spec", "allocations")
					if err != nil {
						return err
					}
					for offset := range allocations {
						have = append(have, strings.TrimSuffix(e.ip(0), "0")+offset)
					}
				}
				slices.Sort(have)
				return want(strings.Join(have, " "), strings.Join(addresses, " "))
			}
		},
	}
}

type dhcpServer struct {
	mu     sync.Mutex
	of     map[string]net.IP // by client identifier
	router net.IP
	next   func(n int) string
}

func (d *dhcpServer) handle(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.MessageType() == dhcpv4.MessageTypeRelease {
		maps.DeleteFunc(d.of, func(_ string, ip net.IP) bool { return ip.Equal(m.ClientIPAddr) })
		return
	}
	client := string(m.Options.Get(dhcpv4.OptionClientIdentifier))
	if d.of[client] == nil {
		n := 60
		for slices.ContainsFunc(slices.Collect(maps.Values(d.of)), func(ip net.IP) bool { return ip.Equal(net.ParseIP(d.next(n))) }) {
			n++
		}
		d.of[client] = net.ParseIP(d.next(n)).To4()
	}
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(d.of[client]), dhcpv4.WithServerIP(d.router),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.router)), dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))),
		dhcpv4.WithOption(dhcpv4.OptRouter(d.router)), dhcpv4.WithLeaseTime(3600))
	if err == nil {
		_, _ = conn.WriteTo(reply.ToBytes(), peer) // the client asks again
	}
}

func startDHCP(s *stage, e eni) addressPlugin {
	s.Helper()
	s.installPlugin("cni/dhcp")
	d := &dhcpServer{of: map[string]net.IP{}, router: net.ParseIP(e.ip(1)).To4(), next: e.ip}
	s.must(s.host.InVPC(func() error {
		// A raw socket, as servers have: releases come from 0.0.0.0, which the kernel delivers to no other socket.
		conn, err := nclient4.NewRawUDPConn("vpc", dhcpv4.ServerPort)
		if err != nil {
			return err
		}
		server, err := server4.NewServer("vpc", nil, d.handle, server4.WithConn(conn))
		if err != nil {
			return err
		}
		s.Cleanup(func() { s.must(server.Close()) })
		go server.Serve() //nolint:errcheck // it ends with Close
		return nil
	}))
	socket := s.path("dhcp.sock")
	daemon, err := plane.StartProcess(s.path("dhcp.log"), nil, filepath.Join(node.CNIBinDir, "dhcp"), "daemon", "-socketpath", socket)
	s.must(err)
	s.Cleanup(func() {
		daemon.Kill()
		if log, err := os.ReadFile(s.path("dhcp.log")); s.Failed() {
			s.Logf("log of dhcp's daemon (%v):\n%s", err, log)
		}
	})
	cluster.Eventually(s.T, "dhcp's daemon", settle, func() error { _, err := os.Stat(socket); return err })
	return addressPlugin{
		ipam: map[string]any{"type": "dhcp", "daemonSocketPath": socket},
		holds: func(addresses ...string) func() error {
			return func() error {
				d.mu.Lock()
				defer d.mu.Unlock()
				var have []string
				for _, ip := range d.of {
					have = append(have, ip.String())
				}
				slices.Sort(have)
				return want(strings.Join(have, " "), strings.Join(addresses, " "))
			}
		},
	}
}
