package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// tell runs the story; the first step that does not hold ends it.
func (s *stage) tell() error {
	started := time.Now()
	fmt.Println("A node with three ENIs beside its primary: namespaces and veth pairs of this machine, a recorded\n" +
		"sysfs tree and a local instance metadata service. Every command below is real, and so is its output.")
	for _, chapter := range []func() error{s.discover, s.bindDPDK, s.attachPod, s.refuseSecond, s.detachPod, s.remove} {
		if err := chapter(); err != nil {
			return err
		}
	}
	if err := s.stopDaemon(); err != nil {
		return err
	}
	s.say("What the daemon had to say about all this: each thing once.")
	for line := range strings.SplitSeq(strings.TrimSpace(s.log.String()), "\n") {
		fmt.Println("     " + line)
	}
	fmt.Printf("\nAll steps held, in %s. Nothing is left behind.\n", time.Since(started).Round(10*time.Millisecond))
	return nil
}

func (s *stage) discover() error {
	s.say("Three NodeENIs say which ENIs this node's pods may have.")
	if err := s.must("ls "+manifest, "dataplane-a.yaml"); err != nil {
		return err
	}
	s.say("The daemon finds them: ENI id by metadata, MAC, interface, PCI address by sysfs.")
	if err := s.startDaemon(); err != nil {
		return err
	}
	took, err := s.waitFor("the inventory", func() bool {
		return phases(map[string]nodestate.Phase{"dataplane-a": nodestate.PhaseReady, "dataplane-b": nodestate.PhaseReady, "dpdk-c": nodestate.PhasePending})
	})
	if err != nil {
		return err
	}
	fmt.Printf("   (ready after %s)\n", took.Round(time.Millisecond))
	if err := s.must("multi-enid status", "dataplane-a", eniA.PCI, "10.0.1.15/24", "ready"); err != nil {
		return err
	}
	s.say("dataplane-b is for the SR-IOV device plugin, so it is in the plugin's config. dpdk-c is not yet: it wants vfio-pci.")
	if _, err := s.waitFor("the device plugin's config", func() bool { return configHas(eniB.PCI) }); err != nil {
		return err
	}
	return s.must("cat "+config, eniB.PCI, "sriov_net_b")
}

func (s *stage) bindDPDK() error {
	s.say("On a real node the daemon binds dpdk-c's device to vfio-pci. Here is no PCI device, so the demo stands in for the kernel. The interface vanishes, the identity does not.")
	if err := s.node.Bind(eniC, "vfio-pci"); err != nil {
		return err
	}
	took, err := s.waitFor("dpdk-c to be advertised", func() bool { return configHas(eniC.PCI, "vfio-pci") })
	if err != nil {
		return err
	}
	fmt.Printf("   (advertised after %s)\n", took.Round(time.Millisecond))
	return s.must("multi-enid status", "vfio-pci", "sriov_dpdk_c")
}

func (s *stage) attachPod() error {
	s.say("A pod asks for dataplane-a by name. This is its whole network configuration:")
	if err := s.must("cat "+confDir+"/dataplane-a.conflist", "dataplane-a"); err != nil {
		return err
	}
	if err := s.must(podArgs("pod-a")+" cnitool add dataplane-a /run/netns/pod-a", eniA.MAC, eniA.PCI, "10.0.1.15/24"); err != nil {
		return err
	}
	s.say("The pod reaches a peer in its subnet through its own ENI.")
	if err := s.must("nsenter --net=/run/netns/pod-a ip -brief address show net1", "10.0.1.15/24", "net1"); err != nil {
		return err
	}
	return s.must("nsenter --net=/run/netns/pod-a ping -c 1 -W 5 10.0.1.1", "1 received")
}

func podArgs(pod string) string {
	return `CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=` + pod + `"`
}

func (s *stage) refuseSecond() error {
	s.say("A second pod asks for the same ENI, and is told who has it.")
	if err := s.refused(podArgs("pod-b")+" cnitool add dataplane-a /run/netns/pod-b", eniA.PCI, "held by pod shop/pod-a"); err != nil {
		return err
	}
	// The daemon sees a change of a pod's record at its next look, a moment later.
	if _, err := s.waitFor("the daemon to have seen the pod", s.podSeen); err != nil {
		return err
	}
	return s.must("multi-enid status", "shop/pod-a")
}

func (s *stage) detachPod() error {
	s.say("The first pod ends. Its ENI comes home, with the name it had.")
	if err := s.must("cnitool del dataplane-a /run/netns/pod-a"); err != nil {
		return err
	}
	return s.must("ip -brief link show eth1", eniA.MAC)
}

func (s *stage) remove() error {
	s.say("The NodeENIs are removed. The device plugin's config falls back to its placeholder: never stale, never empty.")
	if err := s.must("rm " + manifest + "/*.yaml"); err != nil {
		return err
	}
	took, err := s.waitFor("the placeholder", func() bool { return configHas("sriov_placeholder") })
	if err != nil {
		return err
	}
	fmt.Printf("   (after %s)\n", took.Round(time.Millisecond))
	if err := s.must("cat "+config, "sriov_placeholder", "0000:00:00.0"); err != nil {
		return err
	}
	if _, err := s.waitFor("an empty inventory", func() bool { return phases(nil) }); err != nil {
		return err
	}
	if data, err := os.ReadFile(config); err != nil || strings.Contains(string(data), eniB.PCI) {
		return errors.Join(err, fmt.Errorf("%s still names %s", config, eniB.PCI))
	}
	return s.must("multi-enid status")
}
