package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (s *stage) tell() error {
	began := time.Now()
	fmt.Println("A cluster with one node: etcd, kube-apiserver, the controller and the daemon are real. EC2, its metadata service and\n" +
		"the node's ENIs are stand-ins. Every command below is real, and so is its output.")
	for _, chapter := range []func() error{s.install, s.run, s.apply, s.attachPod, s.remove, s.endPod} {
		if err := chapter(); err != nil {
			return errors.Join(err, s.runs(), s.logs())
		}
	}
	controller, daemon := s.controller.Log, s.daemon.Log
	if err := s.stop(); err != nil {
		return err
	}
	for _, of := range []struct{ who, log string }{{"controller", controller}, {"daemon", daemon}} {
		s.Say("What the " + of.who + " had to say about all this: each thing once.")
		if err := printLog(of.log); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll steps held, in %s. Nothing is left behind.\n", time.Since(began).Round(10*time.Millisecond))
	return nil
}

func printLog(path string) error {
	log, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(log)), "\n") {
		fmt.Println("     " + line)
		// Between its creation and its attachment the ENI is a Problem of the daemon.
		problem := strings.Contains(line, `msg="problem found"`) && !strings.Contains(line, "reason=NotAttached")
		if problem || strings.Contains(line, "level=error") || strings.Contains(line, "level=fatal") {
			return fmt.Errorf("this is not in the story: %s", line)
		}
	}
	return nil
}

// logs puts the logs of both programs into an error.
func (s *stage) logs() error {
	var err error
	if s.controller != nil {
		log, _ := os.ReadFile(s.controller.Log) // empty on an error
		err = errors.Join(err, fmt.Errorf("log of the controller:\n%s", log))
	}
	if s.daemon != nil {
		log, _ := os.ReadFile(s.daemon.Log) // empty on an error
		err = errors.Join(err, fmt.Errorf("log of the daemon:\n%s", log))
	}
	return err
}

func (s *stage) install() error {
	s.Say("A node of an EC2 instance, and a region with nothing but the node's primary ENI.")
	if err := s.Must("kubectl get node "+nodeName+" --output=custom-columns=NAME:.metadata.name,INSTANCE:.spec.providerID", instanceID); err != nil {
		return err
	}
	if err := s.Must("demo-cluster ec2 interfaces", primaryID); err != nil {
		return err
	}
	s.Say("The manifests that are shipped: the kinds, and the rights of daemon and controller.")
	if err := os.Chdir(s.repo); err != nil {
		return err
	}
	if err := s.Must("kubectl apply --filename=deploy/crd --filename=deploy/rbac.yaml --filename=deploy/components/controller/rbac.yaml",
		"nodeenis.networking.k8s.aws created"); err != nil {
		return err
	}
	return s.Must("kubectl wait --for=condition=Established crd/nodeenis.networking.k8s.aws crd/eninodestates.networking.k8s.aws --timeout=30s", "met")
}

func (s *stage) run() (err error) {
	s.Say("The controller runs once for the cluster, with rights in EC2. The daemon runs on each node, with none.")
	s.controller, err = s.start("multi-enid-controller", []string{
		"AWS_ENDPOINT_URL_EC2=" + s.cloud.ec2URL, "AWS_REGION=" + region, "AWS_ACCESS_KEY_ID=" + key, "AWS_SECRET_ACCESS_KEY=secret",
		"AWS_EC2_METADATA_DISABLED=true",
	}, "controller", "--namespace=kube-system", "--identity=demo", "--listen="+listen)
	if err != nil {
		return err
	}
	s.daemon, err = s.start("multi-enid", []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + s.cloud.imdsURL}, "run", "--node-name="+nodeName,
		"--nodeeni-source=kube", "--attachments-from=controller", "--restart=none", "--podresources-socket=", "--sysfs="+root+"/sys")
	if err != nil {
		return err
	}
	_, err = s.WaitFor("both to be ready", func() bool {
		_, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath)
		return err == nil && s.ready() || s.runs() != nil
	})
	return errors.Join(err, s.runs(), s.awaitEvents())
}

func (s *stage) apply() error {
	s.Say("Somebody declares an ENI. This is all that a person does.")
	if err := s.Must("cat "+manifest, nodeENI); err != nil {
		return err
	}
	applied := time.Now()
	if err := s.Must("kubectl apply --filename="+manifest, "created"); err != nil {
		return err
	}
	s.Say("The controller creates the ENI and attaches it. The daemon finds its link, and offers it to pods.")
	if _, err := s.WaitFor("the device to be ready", func() bool { return phase() == nodestate.PhaseReady || s.runs() != nil }); err != nil {
		return err
	}
	ready := time.Now()
	if err := s.runs(); err != nil {
		return err
	}
	since := func(t time.Time) time.Duration { return t.Sub(applied).Round(time.Millisecond) }
	fmt.Printf("   (created after %s, attached after %s, ready for pods after %s; EC2's stand-in takes %s to attach)\n",
		since(s.cloud.when("CreateNetworkInterface")), since(s.cloud.attachedAt), since(ready), attachTakes)
	e := s.cloud.made()
	if err := s.Must("demo-cluster ec2 interfaces", e.ID+" in-use "+instanceID, nodeENI); err != nil {
		return err
	}
	if err := s.Must("demo-cluster ec2 calls", "CreateNetworkInterface", "AttachNetworkInterface"); err != nil {
		return err
	}
	// The status follows the change, at most 5 s later.
	if err := s.Must("kubectl wait nodeeni/"+nodeENI+" --for=jsonpath='{.status.attachments[0].status}'=attached --timeout=30s", "met"); err != nil {
		return err
	}
	return s.Must("multi-enid status", e.ID, "ready")
}

func (s *stage) attachPod() error {
	e := s.cloud.made()
	s.Say("A pod asks for " + nodeENI + " by name, and reaches the subnet's router from the ENI's own address.")
	if err := s.Must(podArgs+" cnitool add "+nodeENI+" /run/netns/"+pod, e.MAC, e.IPv4[0].String()+"/24"); err != nil {
		return err
	}
	if err := s.Must("demo-cluster pod "+pod+" address net1", e.IPv4[0].String()+"/24"); err != nil {
		return err
	}
	return s.Must("demo-cluster pod "+pod+" ping "+router, "reply from "+router)
}

const podArgs = `CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=` + pod + `"`

func (s *stage) remove() error {
	s.Say("Somebody deletes the NodeENI while the pod has its ENI. The device drains: no new pod gets it, and this pod keeps it.")
	if err := s.Must("kubectl delete nodeeni "+nodeENI+" --wait=false", "deleted"); err != nil {
		return err
	}
	if _, err := s.WaitFor("the device to drain", func() bool { return phase() == nodestate.PhaseDraining || s.runs() != nil }); err != nil {
		return err
	}
	if err := s.Must("kubectl wait eninodestate/"+nodeName+" --for=jsonpath='{.status.devices[0].phase}'=draining --timeout=30s", "met"); err != nil {
		return err
	}
	if err := s.Must("multi-enid status", "draining", "shop/"+pod); err != nil {
		return err
	}
	if err := s.Must("kubectl get nodeeni "+nodeENI+" --output=custom-columns=NAME:.metadata.name,DELETED:.metadata.deletionTimestamp,"+
		"FINALIZERS:.metadata.finalizers", "nodeeni.networking.k8s.aws/finalizer"); err != nil {
		return err
	}
	if err := s.Must("demo-cluster pod "+pod+" ping "+router, "reply from "+router); err != nil {
		return err
	}
	s.Say("EC2 has seen no Detach, and sees none for as long as the pod runs.")
	if err := s.Must("demo-cluster ec2 calls", "AttachNetworkInterface"); err != nil {
		return err
	}
	if slices.Contains(s.cloud.actions(), "DetachNetworkInterface") {
		return errors.New("the controller detached an ENI that a pod has")
	}
	return nil
}

func (s *stage) endPod() error {
	e := s.cloud.made()
	s.Say("The pod ends. The daemon releases the ENI, the controller detaches and deletes it, and the NodeENI goes.")
	ended := time.Now()
	if err := s.Must("cnitool del " + nodeENI + " /run/netns/" + pod); err != nil {
		return err
	}
	if err := s.Must("kubectl wait nodeeni/"+nodeENI+" --for=delete --timeout=60s", "met"); err != nil {
		return err
	}
	fmt.Printf("   (gone %s after the pod; EC2's stand-in takes %s to detach)\n", time.Since(ended).Round(time.Millisecond), detachTakes)
	if err := s.Must("demo-cluster ec2 calls", "DetachNetworkInterface", "DeleteNetworkInterface"); err != nil {
		return err
	}
	if err := s.Must("demo-cluster ec2 interfaces", primaryID); err != nil {
		return err
	}
	if at := s.cloud.when("DetachNetworkInterface"); at.Before(ended) {
		return fmt.Errorf("EC2 saw Detach %s before the pod's end", ended.Sub(at))
	}
	if now := s.cloud.made(); now == nil || now.ID != e.ID || now.Deleted.IsZero() {
		return fmt.Errorf("EC2 still has %+v", now)
	}
	if link(e.MAC) {
		return fmt.Errorf("the node still has the link %s", e.MAC)
	}
	return errors.Join(s.once(), s.runs())
}

// once fails unless each call that changes something was made once, and without an error.
func (s *stage) once() error {
	got := s.cloud.actions()
	for i, action := range got {
		if slices.Contains(got[:i], action) {
			return fmt.Errorf("calls %q: %s more than once", got, action)
		}
	}
	return nil
}
