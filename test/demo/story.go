package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

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
	s.Say("What the daemon had to say about all this: each thing once.")
	log := strings.TrimSpace(s.log.String())
	for line := range strings.SplitSeq(log, "\n") {
		fmt.Println("     " + line)
	}
	if err := onlyExpected(log); err != nil {
		return err
	}
	fmt.Printf("\nAll steps held, in %s. Nothing is left behind.\n", time.Since(started).Round(10*time.Millisecond))
	return nil
}

// onlyExpected fails on a Problem in the log that the story does not have. Between load and bind, noIOMMU may occur.
func onlyExpected(log string) error {
	for line := range strings.SplitSeq(log, "\n") {
		expected := strings.Contains(line, "reason="+storyProblem) || strings.Contains(line, "reason="+noIOMMU)
		if strings.Contains(line, `msg="problem found"`) && !expected {
			return fmt.Errorf("the daemon found a problem that is not in the story: %s", line)
		}
	}
	return nil
}

const (
	storyProblem = "DriverNotLoaded"
	noIOMMU      = "NoIOMMU"
)

func (s *stage) discover() error {
	s.Say("Three NodeENIs say which ENIs this node's pods may have.")
	if err := s.Must("ls "+manifest, "dataplane-a.yaml"); err != nil {
		return err
	}
	s.Say("The daemon finds their ENIs: the id by instance metadata, the PCI address by sysfs.\n" +
		"   dpdk-c wants vfio-pci, which this node has not loaded: the daemon says so, and names the remedy.")
	if err := s.startDaemon(); err != nil {
		return err
	}
	took, err := s.WaitFor("the daemon to name the missing driver", s.problemSeen)
	if err != nil {
		return err
	}
	_, err = s.WaitFor("the inventory", func() bool {
		return phases(map[string]nodestate.Phase{"dataplane-a": nodestate.PhaseReady, "dataplane-b": nodestate.PhaseReady, "dpdk-c": nodestate.PhasePending})
	})
	if err != nil {
		return err
	}
	fmt.Printf("   (ready after %s)\n", took.Round(time.Millisecond))
	if err := s.Must("multi-enid status", "dataplane-a", "10.0.1.15", "ready", storyProblem, "modprobe vfio-pci"); err != nil {
		return err
	}
	s.Say("dataplane-b is for the SR-IOV device plugin, so it is in the plugin's config. dpdk-c is not, until it has the driver that it wants.")
	if _, err := s.WaitFor("the device plugin's config", func() bool { return configHas(eniB.PCI) }); err != nil {
		return err
	}
	return s.Must("cat "+config, eniB.PCI, "sriov_net_b")
}

func (s *stage) bindDPDK() error {
	s.Say("Somebody loads vfio-pci, and the daemon binds dpdk-c's device to it. Here is no PCI device, so the demo does both.\n" +
		"   The interface vanishes; the device keeps its identity, and the problem is over.")
	if err := s.node.Bind(eniC, "vfio-pci"); err != nil {
		return err
	}
	took, err := s.WaitFor("dpdk-c to be advertised", func() bool { return configHas(eniC.PCI, "vfio-pci") })
	if err != nil {
		return err
	}
	fmt.Printf("   (advertised after %s)\n", took.Round(time.Millisecond))
	if _, err := s.WaitFor("the problem to be over", s.problemOver); err != nil {
		return err
	}
	return s.Must("multi-enid status", "No problems", "dpdk-c", "sriov_dpdk_c")
}

func (s *stage) attachPod() error {
	s.Say("A pod asks for dataplane-a by name. This is its whole network configuration. Only sysfs is the demo's: a real node needs no such key.")
	if err := s.Must("cat "+confDir+"/dataplane-a.conflist", "dataplane-a"); err != nil {
		return err
	}
	if err := s.Must(podArgs("pod-a")+" cnitool add dataplane-a /run/netns/pod-a", eniA.MAC, eniA.PCI, "10.0.1.15/24"); err != nil {
		return err
	}
	s.Say("The pod has the ENI's own address, and reaches a peer in its subnet.\n" +
		"   (demo pod does here what nsenter, ip and ping do; a machine may lack those.)")
	if err := s.Must("demo pod pod-a address net1", "10.0.1.15/24", "net1"); err != nil {
		return err
	}
	return s.Must("demo pod pod-a ping 10.0.1.1", "reply from 10.0.1.1")
}

func podArgs(pod string) string {
	return `CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=` + pod + `"`
}

func (s *stage) refuseSecond() error {
	s.Say("A second pod asks for the same ENI, and is told who has it.")
	if err := s.Refused(podArgs("pod-b")+" cnitool add dataplane-a /run/netns/pod-b", eniA.PCI, "held by pod shop/pod-a"); err != nil {
		return err
	}
	// The daemon sees a change of a pod's record at its next look, a moment later.
	if _, err := s.WaitFor("the daemon to have seen the pod", s.podSeen); err != nil {
		return err
	}
	return s.Must("multi-enid status", "shop/pod-a")
}

func (s *stage) detachPod() error {
	s.Say("The first pod ends. Its ENI comes home, with the name it had.")
	if err := s.Must("cnitool del dataplane-a /run/netns/pod-a"); err != nil {
		return err
	}
	return s.Must("demo host link eth1", eniA.MAC)
}

func (s *stage) remove() error {
	s.Say("The NodeENIs are removed. The device plugin's config falls back to its placeholder: never stale, never empty.")
	if err := s.Must("rm " + manifest + "/*.yaml"); err != nil {
		return err
	}
	took, err := s.WaitFor("the placeholder", func() bool { return configHas("sriov_placeholder") })
	if err != nil {
		return err
	}
	fmt.Printf("   (after %s)\n", took.Round(time.Millisecond))
	if err := s.Must("cat "+config, "sriov_placeholder", "0000:00:00.0"); err != nil {
		return err
	}
	if _, err := s.WaitFor("an empty inventory", func() bool { return phases(nil) }); err != nil {
		return err
	}
	if data, err := os.ReadFile(config); err != nil || strings.Contains(string(data), eniB.PCI) {
		return errors.Join(err, fmt.Errorf("%s still names %s", config, eniB.PCI))
	}
	return s.Must("multi-enid status", "No problems")
}
