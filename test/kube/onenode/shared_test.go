package onenode

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// coolDown is the cool-down of these pods: long enough to be seen.
const coolDown = 20 * time.Second

// sharedENI is shared by macvlan, which an ena ENI does not carry in a VPC.
func sharedENI(more addresses) eni {
	e := newENI(0)
	e.Driver, e.shared, e.more = "ixgbevf", true, more
	return e
}

func (e eni) sharing(cool time.Duration, families ...string) map[string]any {
	return map[string]any{
		"cniVersion": "1.0.0", "name": "shared", "type": "multi-eni", "select": map[string]any{"nodeENI": e.letter}, "delegate": map[string]any{"type": "macvlan"},
		"ipam": map[string]any{"type": "eni-ipam", "families": families, "coolDown": int(cool.Seconds()), "routes": []any{map[string]any{"dst": "vpc"}}},
	}
}

func (s *stage) installShared(e eni, families []string, cool time.Duration, args []string, env map[string]string) {
	s.Helper()
	s.shared = e.sharing(cool, families...)
	s.must(s.host.AddPeerAddress(e.ip(1) + "/24"))
	s.must(s.host.AddPeerAddress(e.ip6(1) + "/64"))
	patch := "patches:\n- target: {kind: DaemonSet, name: multi-enid}\n  patch: |-\n"
	for _, a := range args {
		patch += fmt.Sprintf("    - {op: add, path: /spec/template/spec/containers/0/args/-, value: %q}\n", a)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		patch += fmt.Sprintf("    - {op: add, path: /spec/template/spec/containers/0/env/-, value: {name: %s, value: %q}}\n", name, env[name])
	}
	s.install(s.renderWith("", shipped, patch))
	s.must(s.declare(e))
	cluster.Eventually(s.T, "ready", settle, s.lists(e, nodestate.PhaseReady))
}

// addressesOf returns the addresses of net1 in a pod's netns, sorted, without link-local ones.
func (s *stage) addressesOf(pod string) (out []string, err error) {
	r, err := s.record(pod)
	if err != nil {
		return nil, err
	}
	return out, nstest.In(r.Netns.Path, func() error {
		l, err := net.InterfaceByName("net1")
		if err != nil {
			return err
		}
		all, err := l.Addrs()
		for _, a := range all {
			if !netip.MustParsePrefix(a.String()).Addr().IsLinkLocalUnicast() {
				out = append(out, a.String())
			}
		}
		slices.Sort(out)
		return err
	})
}

// haveOwn starts pods, and returns the addresses of each when all run.
func (s *stage) haveOwn(pods ...string) map[string][]string {
	s.Helper()
	for _, p := range pods {
		s.must(s.createPod(p, nil))
	}
	out := map[string][]string{}
	for _, p := range pods {
		cluster.Eventually(s.T, "pod "+p, restart, s.inPhase(p, corev1.PodRunning))
		has, err := s.addressesOf(p)
		s.must(err)
		out[p] = has
	}
	return out
}

func together(has map[string][]string) (out []string) {
	for _, own := range has {
		out = append(out, own...)
	}
	slices.Sort(out)
	return out
}

// reachEachOther: each pod reaches the next one and the router, from every address.
func (s *stage) reachEachOther(e eni, has map[string][]string) {
	s.Helper()
	pods := slices.Sorted(maps.Keys(has))
	netns := map[string]string{}
	for _, p := range pods {
		r, err := s.record(p)
		s.must(err)
		netns[p] = r.Netns.Path
	}
	ip := func(cidr string) netip.Addr { return netip.MustParsePrefix(cidr).Addr() }
	for i, p := range pods {
		other := pods[(i+1)%len(pods)]
		for n, own := range has[p] {
			router := netip.MustParseAddr([]string{e.ip(1), e.ip6(1)}[n])
			if err := errors.Join(
				nstest.Reach(s.Context(), netns[p], ip(own), netns[other], ip(has[other][n])),
				nstest.Reach(s.Context(), netns[p], ip(own), s.host.VPC, router),
			); err != nil {
				s.Errorf("pod %s: %v", p, err)
			}
		}
	}
}

// pool holds an address pool's counts, as multi-enid status prints them.
type pool struct{ free, leased, cooling int }

// shows is a check: status and metrics of the daemon report the pool.
func (s *stage) shows(e eni, family string, p pool) func() error {
	return func() error {
		text, err := s.kubectl("-n", "kube-system", "exec", "ds/multi-enid", "-c", "multi-enid", "--", "/multi-enid", "status")
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		line := fmt.Sprintf("%s %s %d %d %d 0", e.id, family, p.free, p.leased, p.cooling)
		if !slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return strings.Join(strings.Fields(l), " ") == line }) {
			return fmt.Errorf("status has no line %s:\n%s", line, text)
		}
		served, err := s.metrics("127.0.0.1")
		for state, n := range map[string]int{"free": p.free, "leased": p.leased, "cooling": p.cooling} {
			err = errors.Join(err, contains(served, fmt.Sprintf("multi_eni_pod_addresses{family=%q,state=%q} %d\n", family, state, n)))
		}
		return err
	}
}

// waits is a check: an Event of a pod says why its sandbox cannot be created.
func (s *stage) waits(pod, why string) func() error {
	return func() error {
		list, err := s.Admin.CoreV1().Events("default").List(s.Context(),
			metav1.ListOptions{FieldSelector: "reason=FailedCreatePodSandBox,involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var said []string
		for _, e := range list.Items {
			said = append(said, e.Message)
		}
		return contains(strings.Join(said, "\n"), why)
	}
}

func (s *stage) refusal() (refused *types.Error) {
	s.Helper()
	const path = "/run/netns/late"
	s.must(nstest.NewNetns(path))
	defer func() { s.must(nstest.DeleteNetns(path)) }()
	conf, err := json.Marshal(s.shared)
	s.must(err)
	_, err = invoke.ExecPluginWithResult(s.Context(), pluginPath, conf,
		&invoke.Args{Command: "ADD", ContainerID: "late", NetNS: path, IfName: "net1", Path: node.CNIBinDir}, nil)
	if !errors.As(err, &refused) {
		s.Fatalf("ADD: %v, want a refusal", err)
	}
	return refused
}

func (s *stage) leaseOf(e eni, cidr string) (leases.Lease, error) {
	boot, err := nodestate.BootID()
	if err != nil {
		return leases.Lease{}, err
	}
	l, err := leases.Dir(leases.DefaultDir).Read(boot, device.ENIID(e.id))
	if err != nil {
		return leases.Lease{}, err
	}
	i, found := l.Find(netip.MustParsePrefix(cidr).Addr())
	if !found {
		return leases.Lease{}, fmt.Errorf("%s is free", cidr)
	}
	return l.Leases[i], nil
}

func (s *stage) inState(e eni, cidr string, state leases.State, lease *leases.Lease) func() error {
	return func() (err error) {
		if *lease, err = s.leaseOf(e, cidr); err != nil {
			return err
		}
		return want(lease.State, state)
	}
}

// TestSharedENI: as many pods as an ENI has addresses share it. One more waits until an address has cooled down.
func TestSharedENI(t *testing.T) {
	a := sharedENI(addresses{})
	for n := 10; n < 15; n++ {
		if a.more.ipv6 = append(a.more.ipv6, a.ip6(n)); n > 10 {
			a.more.ipv4 = append(a.more.ipv4, a.ip(n))
		}
	}
	s := bareNodeWith(t, a)
	s.installShared(a, []string{"ipv4", "ipv6"}, coolDown, []string{"--orphan-grace=" + orphanGrace.String()}, nil)
	has := s.haveOwn("p1", "p2", "p3", "p4")
	s.must(want(strings.Join(together(has), " "), "10.0.2.11/24 10.0.2.12/24 10.0.2.13/24 10.0.2.14/24 fd00:2::b/64 fd00:2::c/64 fd00:2::d/64 fd00:2::e/64"))
	s.reachEachOther(a, has)
	for _, family := range []string{leases.IPv4, leases.IPv6} {
		cluster.Eventually(t, family+" used up", settle, s.shows(a, family, pool{0, 4, 0}))
	}
	served, err := s.metrics("127.0.0.1")
	s.must(errors.Join(err, contains(served, "multi_eni_exhausted_pools 2\n")))
	cluster.Eventually(t, "holders", settle, func() error {
		text, err := s.kubectl("describe", "ens", node.Name)
		for pod := range has {
			err = errors.Join(err, contains(text, "default/"+pod))
		}
		return err
	})

	s.must(s.createPod("p5", nil))
	why := fmt.Sprintf("all 4 ipv4 addresses that ENI %s has for pods are taken: 4 leased, 0 cooling down; assign more", a.id)
	cluster.Eventually(t, "an Event", settle, s.waits("p5", why))
	refused := s.refusal()
	s.must(errors.Join(want(refused.Code, 11), contains(refused.Msg, why)))
	s.must(s.delete("p1"))
	var lease leases.Lease
	cluster.Eventually(t, "cooling", settle, s.inState(a, has["p1"][0], leases.Cooling, &lease))
	cluster.Eventually(t, "shown to cool", settle, s.shows(a, leases.IPv4, pool{0, 3, 1}))
	freeAt := lease.FreeAt
	cluster.Eventually(t, "the address of p1 for p5", restart, s.inState(a, has["p1"][0], leases.Held, &lease))
	now, err := nodestate.Uptime()
	s.must(errors.Join(err, want(lease.Pod, "default/p5")))
	if now < freeAt {
		t.Errorf("given %v before it had cooled down", freeAt-now)
	}
	cluster.Eventually(t, "pod p5", settle, s.inPhase("p5", corev1.PodRunning))
	has["p5"] = has["p1"]
	delete(has, "p1")
	s.reachEachOther(a, has)

	s.sharerCrashes(a, has)
	for pod := range has {
		s.must(s.delete(pod))
	}
	cluster.Eventually(t, "release", settle, s.unheld)
	cluster.Eventually(t, "nothing left", settle, s.unshared)
	cluster.Eventually(t, "all free", settle, s.shows(a, leases.IPv4, pool{4, 0, 0}))
	s.must(s.withdraw(a))
	cluster.Eventually(t, "removed", settle, s.lists(a, ""))
}

func (s *stage) sharerCrashes(e eni, has map[string][]string) {
	s.Helper()
	before, err := s.record("p2")
	s.must(err)
	s.orphan(before, func() error {
		held, err := leases.Dir(leases.DefaultDir).Held()
		if slices.ContainsFunc(held, func(l leases.Lease) bool { return l.ContainerID == before.ContainerID }) {
			err = errors.Join(err, fmt.Errorf("%s has a lease", before))
		}
		return err
	})
	cluster.Eventually(s.T, "addresses again", restart, func() error {
		if now, err := s.record("p2"); err != nil || now.ContainerID == before.ContainerID {
			return errors.Join(err, fmt.Errorf("its record is %s", now))
		}
		again, err := s.addressesOf("p2")
		return errors.Join(err, want(strings.Join(again, " "), strings.Join(has["p2"], " ")))
	})
	s.reachEachOther(e, has)
}

func (s *stage) unshared() error {
	links, err := netlink.LinkList()
	left := slices.DeleteFunc(links, func(l netlink.Link) bool { return l.Type() != "macvlan" })
	spaces, globErr := filepath.Glob("/run/netns/cni-*")
	return errors.Join(err, globErr, none("links", left), none("network namespaces", spaces))
}

func (s *stage) showInMetadata(now fakeec2.ENI) {
	s.metadata.ENIs = slices.Clone(s.metadata.ENIs)
	i := slices.IndexFunc(s.metadata.ENIs, func(e fakeimds.ENI) bool { return e.ID == now.ID })
	e := &s.metadata.ENIs[i]
	e.IPv4s, e.IPv4Prefixes = nil, nil
	for _, a := range now.IPv4 {
		e.IPv4s = append(e.IPv4s, a.String())
	}
	for _, p := range now.Prefixes {
		e.IPv4Prefixes = append(e.IPv4Prefixes, p.String())
	}
	s.imds.Apply(s.metadata)
}

// TestSharedENIGrows: where the daemon may call EC2, the first pods make it assign addresses, and all of them start.
func TestSharedENIGrows(t *testing.T) {
	for name, flag := range map[string]string{"addresses": "--manage-addresses", "prefixes": "--manage-addresses=prefixes"} {
		t.Run(name, func(t *testing.T) {
			a := sharedENI(addresses{})
			own := netip.MustParseAddr(a.own())
			s := bareNodeWith(t, a)
			ec2 := fakeec2.Start(t, fakeec2.Config{
				Subnets: []fakeec2.Subnet{{ID: a.subnet, IPv4: netip.MustParsePrefix(a.cidr())}},
				ENIs: []fakeec2.ENI{{ID: a.id, MAC: a.MAC, SubnetID: a.subnet, Instance: instanceID, DeviceIndex: 1, Tags: map[string]string{"NodeENI": a.letter},
					IPv4: []netip.Addr{own}}},
				OnChange: s.showInMetadata,
			})
			env := map[string]string{"AWS_REGION": "eu-central-1"}
			for _, name := range []string{"AWS_ENDPOINT_URL_EC2", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
				env[name] = os.Getenv(name)
			}
			const low, high = 2, 4
			s.installShared(a, []string{"ipv4"}, time.Second, []string{flag, fmt.Sprintf("--addresses-low=%d", low), fmt.Sprintf("--addresses-high=%d", high)}, env)
			pods := []string{"p1", "p2", "p3", "p4", "p5", "p6"}
			has := s.haveOwn(pods...)
			assigned := ec2.ENI(a.id)
			t.Logf("EC2 has assigned %v, %v", assigned.IPv4, assigned.Prefixes)
			if (flag == "--manage-addresses") != (len(assigned.Prefixes) == 0) {
				t.Errorf("prefixes %v", assigned.Prefixes)
			}
			if n := len(slices.Compact(together(has))); n != len(pods) {
				t.Errorf("%d addresses: %v", n, has)
			}
			for pod, addresses := range has {
				addr := netip.MustParsePrefix(addresses[0]).Addr()
				if addr == own || !slices.Contains(assigned.IPv4, addr) && !slices.ContainsFunc(assigned.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
					t.Errorf("pod %s has %s, which EC2 has not assigned for it", pod, addr)
				}
			}
			s.reachEachOther(a, has)

			for _, pod := range pods {
				s.must(s.delete(pod))
			}
			cluster.Eventually(t, "release", settle, s.unheld)
			// The end of a cool-down wakes nobody: the daemon looks once a minute.
			cluster.Eventually(t, "surplus given back", restart, func() error {
				left := ec2.ENI(a.id)
				if free := len(left.IPv4) - 1 + 16*len(left.Prefixes); flag == "--manage-addresses" && free > high {
					return fmt.Errorf("%d are free, want %d at most", free, high)
				}
				return nil
			})
		})
	}
}
