package onenode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

// offerLabel is the Node's label that says who offers its devices.
const offerLabel = "networking.k8s.aws/offer"

// mostGap bounds the time without an allocatable device while the devices change hands, on a machine that has processors
// to spare. handoffs is how often one process waits for another one in that time.
const (
	mostGap  = 20 * time.Millisecond
	handoffs = 8
)

// wish labels the Node; "" removes the label.
func (s *stage) wish(mode string) {
	s.Helper()
	var value any
	if mode != "" {
		value = mode
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{offerLabel: value}}})
	s.must(err)
	_, err = s.Admin.CoreV1().Nodes().Patch(context.Background(), node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}

// unlabel has the test leave the Node without the label, and the folder of sockets as it was.
func (s *stage) unlabel() {
	s.Cleanup(func() {
		s.wish("")
		left, err := filepath.Glob(node.DevicePluginsDir + "/multi-eni-*.sock")
		s.must(err)
		for _, socket := range left { // of a daemon that was killed
			s.must(os.Remove(socket))
		}
	})
}

// useOffer starts the daemon again, with --offer=deviceplugin.
func (s *stage) useOffer() {
	s.Helper()
	s.unlabel()
	s.daemon.Kill()
	s.daemonCmd = append(s.daemonCmd, "--offer=deviceplugin")
	s.runDaemon()
}

// report returns status.offer and the Problems of the node's ENINodeState.
func (s *stage) report() (mode, state string, problems []string, err error) {
	u, err := s.states().Get(s.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		return "", "", nil, err
	}
	mode, _, _ = unstructured.NestedString(u.Object, "status", "offer", "mode")
	state, _, _ = unstructured.NestedString(u.Object, "status", "offer", "state")
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "problems")
	for _, p := range all {
		if o, ok := p.(map[string]any); ok {
			problems = append(problems, fmt.Sprintf("%v: %v", o["reason"], o["message"]))
		}
	}
	return mode, state, problems, nil
}

// offering is a check: the ENINodeState has this mode and state.
func (s *stage) offering(mode, state string) func() error {
	return func() error {
		m, st, problems, err := s.report()
		if err == nil && (m != mode || st != state) {
			err = fmt.Errorf("offer %q, %q, with Problems %q; want %q, %q", m, st, problems, mode, state)
		}
		return err
	}
}

func (s *stage) memory() (nodestate.OfferMemory, error) {
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(s.paths.state))
	return c.Offer, err
}

// kubeletAllocatable is the kubelet's own list of healthy devices, by resource.
func kubeletAllocatable(ctx context.Context) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+node.PodResourcesSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := podresources.NewPodResourcesListerClient(conn).GetAllocatableResources(ctx, &podresources.AllocatableResourcesRequest{})
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, d := range list.GetDevices() {
		out[d.GetResourceName()] = append(out[d.GetResourceName()], d.GetDeviceIds()...)
	}
	return out, nil
}

// lists is a check: the kubelet lists exactly the devices of these ENIs.
func (s *stage) kubeletLists(enis ...eni) func() error {
	return func() error {
		got, err := kubeletAllocatable(s.Context())
		if err != nil {
			return err
		}
		wanted := map[string][]string{}
		for _, e := range enis {
			wanted[e.resource()] = []string{e.PCI}
		}
		if !maps.EqualFunc(got, wanted, slices.Equal) {
			err = fmt.Errorf("the kubelet lists %v, want %v", got, wanted)
		}
		return err
	}
}

// kubeletEvent is a line of the kubelet's log about a resource.
type kubeletEvent struct {
	at       time.Time
	kind     string
	resource string
	healthy  int
}

// The kinds of kubelet events.
const (
	registration = "Got registration request from device plugin with resource"
	dropped      = "Mark all resources Unhealthy for resource"
	pushed       = "State pushed for device plugin"
	updated      = "Processed device updates for resource" // after the checkpoint was written
)

var kubeletLine = regexp.MustCompile(`^I(\d{4} \d\d:\d\d:\d\d\.\d{6}) +\d+ \S+\] "(` + registration + `|` + dropped + `|` + pushed + `|` + updated +
	`)" resource(?:Name)?="([^"]+)"(?: totalCount=\d+ healthyCount=(\d+))?`)

// kubeletEvents are those of the kubelet's log from an offset on.
func (s *stage) kubeletEvents(from int64) (all []kubeletEvent) {
	s.Helper()
	log, err := os.ReadFile(s.Log("kubelet"))
	s.must(err)
	for line := range strings.Lines(string(log[from:])) {
		m := kubeletLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		at, err := time.ParseInLocation("2006 0102 15:04:05.000000", strconv.Itoa(time.Now().Year())+" "+m[1], time.Local)
		s.must(err)
		healthy, _ := strconv.Atoi(m[4])
		all = append(all, kubeletEvent{at, m[2], m[3], healthy})
	}
	return all
}

// kubeletNow is the end of the kubelet's log.
func (s *stage) kubeletNow() int64 {
	s.Helper()
	info, err := os.Stat(s.Log("kubelet"))
	s.must(err)
	return info.Size()
}

// gaps are the longest times for which the kubelet had no healthy device of a resource, since an offset of its log. A
// gap that has not ended is as long as it is by now.
func (s *stage) gaps(from int64, enis ...eni) map[string]time.Duration {
	s.Helper()
	out, since, sent := map[string]time.Duration{}, map[string]time.Time{}, map[string]time.Time{}
	for _, e := range enis {
		out[e.resource()] = 0
	}
	for _, e := range s.kubeletEvents(from) {
		began, open := since[e.resource]
		switch {
		case e.kind == registration:
		case e.kind == pushed:
			sent[e.resource] = e.at
		case e.kind == updated && e.healthy > 0:
			if open { // the devices count before the checkpoint is written
				out[e.resource] = max(out[e.resource], sent[e.resource].Sub(began))
				delete(since, e.resource)
			}
		case !open:
			since[e.resource] = e.at
		}
	}
	for name, began := range since {
		out[name] = max(out[name], time.Since(began))
	}
	return out
}

// stalls measures until stop is called how late the machine wakes a process; stop returns the worst.
func stalls() (stop func() time.Duration) {
	ended, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			asleep := time.Now()
			select {
			case <-ended:
				worst <- most
				return
			case <-time.After(time.Millisecond):
				most = max(most, time.Since(asleep)-time.Millisecond)
			}
		}
	}()
	return func() time.Duration {
		close(ended)
		return <-worst
	}
}

// bounded checks that no gap since then was longer than mostGap, and the stalls of a busy machine.
func (s *stage) bounded(what string, from int64, stall time.Duration, enis ...eni) {
	s.Helper()
	gaps := s.gaps(from, enis...)
	s.Logf("%s: longest times without an allocatable device: %v; the machine stalled for %v at most", what, gaps, stall)
	for _, e := range enis {
		if gap := gaps[e.resource()]; gap > mostGap+handoffs*stall {
			s.Errorf("%s: %s had no allocatable device for %v, want %v at most, and %d stalls", what, e.resource(), gap, mostGap, handoffs)
		}
	}
}

// container returns the state of a pod's container.
func (s *stage) container(pod string) (corev1.ContainerStatus, error) {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	p, err := s.Admin.CoreV1().Pods("default").Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return corev1.ContainerStatus{}, err
	}
	if len(p.Status.ContainerStatuses) != 1 {
		return corev1.ContainerStatus{}, fmt.Errorf("pod %s is %s: %s %s", pod, p.Status.Phase, p.Status.Reason, p.Status.Message)
	}
	return p.Status.ContainerStatuses[0], nil
}

// killContainer kills a pod's container, and waits until it runs again.
func (s *stage) killContainer(pod string) {
	s.Helper()
	before, err := s.container(pod)
	s.must(err)
	_, id, _ := strings.Cut(before.ContainerID, "://")
	var pids []int
	for _, pid := range processes(func([]string) bool { return true }) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err == nil && id != "" && strings.Contains(string(b), id) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		s.Fatalf("no process of container %q", id)
	}
	for _, pid := range pids {
		s.must(syscall.Kill(pid, syscall.SIGKILL))
	}
	took := cluster.Eventually(s.T, "container of pod "+pod+" runs again", settle, func() error {
		now, err := s.container(pod)
		if err == nil && (now.State.Running == nil || now.RestartCount <= before.RestartCount) {
			err = fmt.Errorf("restarts %d, before %d; state %+v", now.RestartCount, before.RestartCount, now.State)
		}
		return err
	})
	s.Logf("the killed container of pod %s runs again after %v", pod, took.Round(time.Millisecond))
}

// watchHolders looks at the kubelet until stop is called: no device has two holders, and those who have one keep it.
func (s *stage) watchHolders(holders map[string]string) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(50 * time.Millisecond): // the kubelet answers 100 calls per second, of the daemon too
			}
			now, err := s.allocations()
			if err != nil && strings.Contains(err.Error(), "is allocated to") {
				s.Error(err)
				return
			}
			if err != nil {
				continue // the kubelet is away, or busy
			}
			for pci, pod := range holders {
				if now[pci] != pod {
					s.Errorf("%s is allocated to %q, want %q", pci, now[pci], pod)
					return
				}
			}
		}
	})
	return func() {
		close(ended)
		wg.Wait()
	}
}

// run starts a pod with an ENI's device, and waits until it has it.
func (s *stage) run(pod string, e eni) {
	s.Helper()
	s.must(s.create(pod, e.resource()))
	cluster.Eventually(s.T, "pod "+pod, settle, s.inPhase(pod, corev1.PodRunning))
	s.must(s.hasDevice(pod, e))
}

// end deletes a pod, and waits for its end.
func (s *stage) end(pod string) {
	s.Helper()
	s.must(s.delete(pod))
	cluster.Eventually(s.T, "end of pod "+pod, settle, s.inPhase(pod, ""))
}

// registeredBy returns when the kubelet got the first registration of each resource since an offset of its log.
func (s *stage) registeredBy(from int64, enis ...eni) (last time.Time, err error) {
	s.Helper()
	first := map[string]time.Time{}
	for _, e := range s.kubeletEvents(from) {
		if e.kind == registration && first[e.resource].IsZero() {
			first[e.resource] = e.at
		}
	}
	for _, e := range enis {
		at := first[e.resource()]
		if at.IsZero() {
			err = errors.Join(err, fmt.Errorf("%s is not registered", e.resource()))
		}
		if at.After(last) {
			last = at
		}
	}
	return last, err
}

var statesResource = schema.GroupVersionResource{Group: "networking.k8s.aws", Version: "v1alpha1", Resource: "eninodestates"}

func (s *stage) states() dynamic.ResourceInterface {
	s.Helper()
	d, err := dynamic.NewForConfig(s.Config)
	s.must(err)
	return d.Resource(statesResource)
}
