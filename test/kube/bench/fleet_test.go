//go:build bench

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var (
	fleetNodes = flag.Int("nodes", 5000, "how many Nodes the controller has; each has three slots")
	fleetRate  = flag.Float64("ec2-qps", 100, "--ec2-qps of the controller; the fake EC2 takes any rate")
	fleetBurst = flag.Int("ec2-burst", 1000, "--ec2-burst of the controller")
	fleetLimit = flag.Duration("within", 45*time.Minute, "how long all ENIs may take")
)

const (
	slotsPerNode = 3
	// nodesPerGroup have the same NodeENIs, so that each NodeENI's status has as many entries.
	nodesPerGroup = 500
	fleetZone     = "eu-central-1a"
	fleetGroup    = "sg-0a1b2c3d4e5f60001"
	parallel      = 32
)

// fleet is a cluster of Nodes without kubelets, and a fake EC2 with their instances.
type fleet struct {
	*testing.T
	*cluster.Cluster
	ec2  *fakeec2.Server
	proc *plane.Process
}

func (f *fleet) Context() context.Context { return f.T.Context() }

// TestFleet measures the controller with a large cluster: to the last attached ENI, and at rest.
func TestFleet(t *testing.T) {
	f := &fleet{T: t, Cluster: cluster.Start(t)}
	for _, o := range cluster.ReadFile(t, cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/controller]\n")) {
		if slices.Contains([]string{"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}, o.GetKind()) {
			f.Apply(t, o)
		}
	}
	subnets := make([]fakeec2.Subnet, slotsPerNode)
	for i := range subnets {
		subnets[i] = fakeec2.Subnet{ID: subnetID(i), IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(16 * i), 0, 0}), 16), Zone: fleetZone}
	}
	var instances []fakeec2.Instance
	for i := range *fleetNodes {
		instances = append(instances, fakeec2.Instance{ID: instanceOf(i), Type: "c5n.xlarge", SubnetID: subnetID(0)})
	}
	f.ec2 = fakeec2.New(fakeec2.Config{
		Subnets: subnets, Groups: []fakeec2.Group{{ID: fleetGroup, Name: "pods"}}, Instances: instances,
		OnUnknown: func(request string) { t.Errorf("EC2: unknown: %s", request) },
	})
	begin := time.Now()
	f.makeNodes()
	t.Logf("%d Nodes made in %v", *fleetNodes, time.Since(begin).Round(time.Second))
	f.declareAll()
	received := f.watchOne()
	f.startController()
	begin = time.Now()
	slots := *fleetNodes * slotsPerNode
	scale := fmt.Sprintf("%d nodes × %d", *fleetNodes, slotsPerNode)
	f.converge(slots)
	took := time.Since(begin)
	calls, changes := f.ec2.Tally(""), 0
	for _, action := range []string{"CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"} {
		changes += f.ec2.Tally(action).Calls
	}
	note("all ENIs attached, "+scale, "", "%v at %.0f calls/s an action", took.Round(time.Second), *fleetRate)
	note("calls that change something, an ENI, "+scale, "3", "%.3f", float64(changes)/float64(slots))
	note("other calls, an ENI, "+scale, "≤ 0.1", "%.3f", float64(calls.Calls-changes)/float64(slots))
	note("resident memory of the controller, "+scale, "≤ 200 MB", "%.1f MB", mega(rss(t, f.proc.PID())))
	note("bytes that one daemon's watch received, "+scale, "≤ 20 KB a change", "%.1f KB", float64(received.Load())/1e3)
	note("largest NodeENI, "+scale, "≤ 200 KB", "%.1f KB", float64(f.largest())/1e3)
	f.atRest(scale)
}

func subnetID(i int) string   { return fmt.Sprintf("subnet-%017x", i+1) }
func instanceOf(i int) string { return fmt.Sprintf("i-%017x", i+1) }
func nodeName(i int) string {
	return fmt.Sprintf("ip-10-1-%d-%d.eu-central-1.compute.internal", i/250, i%250)
}

func (f *fleet) makeNodes() {
	f.Helper()
	next := make(chan int)
	errs := make(chan error, parallel)
	for range parallel {
		go func() {
			var err error
			for i := range next {
				if err == nil {
					err = f.makeNode(i)
				}
			}
			errs <- err
		}()
	}
	for i := range *fleetNodes {
		next <- i
	}
	close(next)
	for range parallel {
		cluster.Must(f, <-errs)
	}
}

func (f *fleet) makeNode(i int) error {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			"group": strconv.Itoa(i / nodesPerGroup), "topology.kubernetes.io/zone": fleetZone, "node.kubernetes.io/instance-type": "c5n.xlarge",
		}},
		Spec: corev1.NodeSpec{ProviderID: "aws:///" + fleetZone + "/" + instanceOf(i)},
	}
	n, err := f.Admin.CoreV1().Nodes().Create(f.Context(), n, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
	_, err = f.Admin.CoreV1().Nodes().UpdateStatus(f.Context(), n, metav1.UpdateOptions{})
	return err
}

func (f *fleet) declareAll() {
	f.Helper()
	for group := range (*fleetNodes + nodesPerGroup - 1) / nodesPerGroup {
		for i := range slotsPerNode {
			f.CreateNodeENI(f, v1alpha1.NodeENI{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("dataplane-%d-%d", group, i)},
				Spec: v1alpha1.NodeENISpec{
					NodeSelector: map[string]string{"group": strconv.Itoa(group)}, SubnetID: subnetID(i), SecurityGroupIDs: []string{fleetGroup}, DeviceIndex: 1 + i,
				},
			})
		}
	}
}

// watchOne watches as the daemon of the first node does, and counts the bytes of the events.
func (f *fleet) watchOne() *atomic.Int64 {
	f.Helper()
	var n atomic.Int64
	stream, err := f.Admin.Discovery().RESTClient().Get().AbsPath("/apis/networking.k8s.aws/v1alpha1/eninodestates").
		Param("watch", "true").Param("fieldSelector", "metadata.name="+nodeName(0)).Stream(f.Context())
	cluster.Must(f, err)
	go func() {
		defer stream.Close()
		lines := bufio.NewReader(stream)
		for {
			line, err := lines.ReadBytes('\n')
			n.Add(int64(len(line)))
			if err != nil {
				return // the test has ended
			}
		}
	}()
	return &n
}

func (f *fleet) startController() {
	f.Helper()
	bin, err := nstest.Binary("multi-enid")
	cluster.Must(f, err)
	web := httptest.NewServer(f.ec2)
	f.Cleanup(web.Close)
	log := filepath.Join(f.TempDir(), "controller.log")
	f.proc, err = plane.StartProcess(log, []string{
		"AWS_ENDPOINT_URL_EC2=" + web.URL, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=secret",
		"AWS_EC2_METADATA_DISABLED=true",
	}, bin, "controller", "--namespace=kube-system", "--identity=one", "--listen=off",
		"--kubeconfig="+f.WriteAccountKubeconfig(f, "kube-system", "multi-enid-controller"),
		fmt.Sprintf("--ec2-qps=%g", *fleetRate), fmt.Sprintf("--ec2-burst=%d", *fleetBurst))
	cluster.Must(f, err)
	f.Cleanup(func() {
		f.proc.Kill()
		if f.Failed() {
			f.Logf("log of the controller:\n%s", plane.Tail(log))
		}
	})
}

// converge waits until every slot is attached, in EC2 and in the objects.
func (f *fleet) converge(slots int) {
	f.Helper()
	last := time.Now()
	cluster.Eventually(f, "all ENIs attached", *fleetLimit, func() error {
		f.runs()
		done := f.ec2.Tally("ModifyNetworkInterfaceAttribute").Calls
		if time.Since(last) > time.Minute {
			last = time.Now()
			f.Logf("%d of %d ENIs, %.1f MB", done, slots, mega(rss(f, f.proc.PID())))
		}
		if done < slots {
			return fmt.Errorf("%d of %d", done, slots)
		}
		return nil
	})
	cluster.Eventually(f, "all entries attached", *fleetLimit, func() error {
		wait(f.T, 5*time.Second)
		f.runs()
		list, err := f.ENINodeStates().List(f.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		attached := 0
		for _, o := range list.Items {
			text, err := o.MarshalJSON()
			if err != nil {
				return err
			}
			attached += strings.Count(string(text), `"phase":"Attached"`)
		}
		if attached != slots {
			return fmt.Errorf("%d of %d", attached, slots)
		}
		return nil
	})
}

func (f *fleet) runs() {
	f.Helper()
	select {
	case <-f.proc.Exited():
		f.Fatal("the controller has ended")
	default:
	}
}

// largest is the size of the largest NodeENI as JSON.
func (f *fleet) largest() (most int) {
	f.Helper()
	list, err := f.NodeENIs().List(f.Context(), metav1.ListOptions{})
	cluster.Must(f, err)
	for _, o := range list.Items {
		text, err := json.Marshal(o.Object)
		cluster.Must(f, err)
		most = max(most, len(text))
	}
	return most
}

func (f *fleet) atRest(scale string) {
	f.Helper()
	wait(f.T, 15*time.Second) // statuses are written 5 s apart
	writes := func() (n int) {
		for _, r := range f.Requests(f, "system:serviceaccount:kube-system:multi-enid-controller") {
			if !slices.Contains([]string{"get", "list", "watch"}, r.Verb) && r.Resource != "leases" {
				n++
			}
		}
		return n
	}
	before, calls := writes(), f.ec2.Tally("")
	wait(f.T, *span)
	after := f.ec2.Tally("")
	note("objects written in "+span.String()+" of rest, "+scale, "0", "%d", writes()-before)
	note("calls in "+span.String()+" of rest, "+scale, "0 that change something", "%d, %d of them change something", after.Calls-calls.Calls,
		after.Mutating-calls.Mutating)
	note("objects written in all, an ENI, "+scale, "", "%.2f", float64(before)/float64(*fleetNodes*slotsPerNode))
}

// rss is a process's resident set in bytes (proc_pid_status(5), VmRSS).
func rss(t testing.TB, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	cluster.Must(t, err)
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	cluster.Must(t, err)
	return kib << 10
}
