package replicas

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

const finalizer = "nodeeni.networking.k8s.aws/finalizer"

// TestController: two replicas, and one ENI from its NodeENI to nothing. A daemon that has it keeps it. At rest nothing is written.
func TestController(t *testing.T) {
	r := newRegion(t)
	replicas := []*replica{r.start("a"), r.start("b")}
	declared := time.Now()
	r.declareENI()
	e := r.awaitEntry("an attached entry", attached)
	t.Logf("NodeENI to attached entry, election included: %v", time.Since(declared))
	live := r.live()
	if len(live) != 1 || live[0].ID != e.ENIID || live[0].MAC != e.MAC || live[0].Instance != fleetInstance || live[0].DeviceIndex != 1 ||
		!live[0].DeleteOnTermination {
		t.Errorf("EC2 has %+v, the entry is %+v", live, e)
	}
	r.report(r.device(e, "ready", "default/p"), nil)
	cluster.Eventually(t, "status.attachments", soon, r.statusNames(e))
	r.atRest(replicas)

	r.DeleteNodeENI(t, "a")
	e = r.awaitEntry("the wish to release", func(e v1alpha1.AttachmentEntry) bool { return e.Wanted == v1alpha1.WantedReleased })
	r.report(r.device(e, "draining", "default/p"), nil)
	r.awaitEntry("draining", func(e v1alpha1.AttachmentEntry) bool { return e.Phase == "Draining" })
	cluster.Holds(t, "no Detach while a pod has the ENI", calm, func() error { return r.not("DetachNetworkInterface") })
	for _, other := range []map[string]any{
		{"slot": e.Slot, "eniID": "eni-0ffffffffffffffff", "release": e.Release}, {"slot": e.Slot, "eniID": e.ENIID, "release": e.Release + 1},
		{"slot": e.Slot, "eniID": e.ENIID},
	} {
		r.report(nil, []any{other})
		cluster.Holds(t, "no Detach for the release of another ENI, or for another wish", calm/2, func() error { return r.not("DetachNetworkInterface") })
	}
	r.report(nil, []any{map[string]any{"slot": e.Slot, "eniID": e.ENIID, "release": e.Release}})
	cluster.Eventually(t, "the NodeENI gone", soon, r.gone)
	if live := r.live(); len(live) > 0 {
		t.Errorf("the NodeENI is gone, and EC2 still has %+v", live)
	}
	want := []string{"CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute", "DetachNetworkInterface", "DeleteNetworkInterface"}
	if got := slices.Concat(replicas[0].mutating(), replicas[1].mutating()); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	for _, c := range replicas {
		cluster.Must(t, c.proc.Stop())
	}
}

func (r *region) statusNames(e v1alpha1.AttachmentEntry) func() error {
	return func() error {
		o, err := r.NodeENIs().Get(r.Context(), "a", metav1.GetOptions{})
		if err != nil {
			return err
		}
		status, _ := o.Object["status"].(map[string]any)
		list, _ := status["attachments"].([]any)
		if len(list) != 1 {
			return fmt.Errorf("attachments %v", list)
		}
		got, _ := list[0].(map[string]any)
		if got["eniID"] != e.ENIID || got["attachmentID"] != e.AttachmentID || got["nodeID"] != fleetNode || !slices.Contains(o.GetFinalizers(), finalizer) {
			return fmt.Errorf("attachment %v, finalizers %v, want those of %+v", got, o.GetFinalizers(), e)
		}
		return nil
	}
}

// atRest checks that nothing is written but the Lease, and nothing is changed in EC2.
func (r *region) atRest(replicas []*replica) {
	r.Helper()
	var before int
	settled := time.Now()
	// A write may still be due: they are at least five seconds apart.
	cluster.Eventually(r, "no write for seven seconds", soon, func() error {
		if now := len(r.writes()); now != before {
			before, settled = now, time.Now()
		}
		if time.Since(settled) < 7*time.Second {
			return fmt.Errorf("the last writes:\n%s", cluster.Lines(r.writes()))
		}
		return nil
	})
	calls := len(replicas[0].mutating()) + len(replicas[1].mutating())
	cluster.Holds(r, "at rest", calm, func() error {
		if now := r.writes(); len(now) != before {
			return fmt.Errorf("written:\n%s", cluster.Lines(now[before:]))
		}
		if now := len(replicas[0].mutating()) + len(replicas[1].mutating()); now != calls {
			return errors.New("EC2 was changed")
		}
		return nil
	})
}

func (r *region) gone() error {
	_, err := r.NodeENIs().Get(r.Context(), "a", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err == nil:
		return errors.New("the NodeENI is still there")
	}
	return err
}

// not is an error once EC2 has seen an action.
func (r *region) not(action string) error {
	for _, e := range r.ec2.Events() {
		if e.Action == action {
			return fmt.Errorf("EC2 saw %s at %v", action, e.At)
		}
	}
	return nil
}

// TestControllerSides: the controller's account cannot write the daemon's report, and the daemon's account cannot write the controller's list.
// RBAC and the admission policies together see to it.
func TestControllerSides(t *testing.T) {
	r := newRegion(t)
	r.ExpectDenials("the rights are tried")
	r.deniesFine = true
	r.start("a")
	r.declareENI()
	e := r.awaitEntry("an attached entry", attached)
	controller, daemon := cluster.As(t, r.kubeconfig), r.daemon()
	byController, byDaemon := cluster.ClientOf(t, controller), cluster.ClientOf(t, daemon)
	r.applyPolicies(controller, daemon)
	report := map[string]any{"problemCount": 0, "protocol": v1alpha1.Protocol}
	for what, err := range map[string]error{
		"the daemon reports its node":      r.apply(daemon, "status", report, "status"),
		"the controller marks the NodeENI": r.patchNodeENI(controller, `{"metadata":{"annotations":{"aws-multi-eni-controller/cleanup-start-time":"x"}}}`),
	} {
		if err != nil {
			t.Errorf("%s: %v, want it allowed", what, err)
		}
	}
	for what, err := range map[string]error{
		"the daemon sets a spec":                      r.apply(daemon, "spec", map[string]any{"attachments": []any{}}),
		"the daemon makes an object with a spec":      r.createWithSpec(daemon, fleetNode),
		"the daemon makes the object of another node": cluster.TryNodeState(t, daemon, `"name":"node-9"`, ""),
		"the daemon reads NodeENIs":                   byDaemon.Get().AbsPath(nodeENIs).Do(t.Context()).Error(),
		"the daemon reads the Lease":                  byDaemon.Get().AbsPath(leases, leaseName).Do(t.Context()).Error(),
		"the daemon deletes a NodeENI":                byDaemon.Delete().AbsPath(nodeENIs, "a").Param("dryRun", "All").Do(t.Context()).Error(),
		"the controller reports a node":               r.apply(controller, "status", report, "status"),
		"the controller changes a NodeENI's spec":     r.patchNodeENI(controller, `{"spec":{"deviceIndex":7}}`),
		"the controller deletes a NodeENI":            byController.Delete().AbsPath(nodeENIs, "a").Param("dryRun", "All").Do(t.Context()).Error(),
		"the controller patches a Node": byController.Patch(types.MergePatchType).AbsPath("/api/v1/nodes", fleetNode).Param("dryRun", "All").
			Body([]byte(`{"metadata":{"labels":{"x":"y"}}}`)).Do(t.Context()).Error(),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", what, err)
		}
	}
	if now, err := r.entry(); err != nil || now.ENIID != e.ENIID {
		t.Errorf("the entry is %+v, %v; it was %+v", now, err, e)
	}
}

// daemon is the daemon's account in a pod on the node.
func (r *region) daemon() *rest.Config {
	r.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "multi-enid-1", Labels: map[string]string{"app.kubernetes.io/name": "multi-enid"}},
		Spec: corev1.PodSpec{
			NodeName: fleetNode, ServiceAccountName: "multi-enid", Containers: []corev1.Container{{Name: "multi-enid", Image: "multi-enid"}},
		},
	}
	pod, err := r.Admin.CoreV1().Pods(accountNamespace).Create(r.Context(), pod, metav1.CreateOptions{})
	cluster.Must(r, err)
	return r.InPod(r, pod)
}

// applyPolicies applies the admission policies of daemon and controller, and waits until they are in force.
func (r *region) applyPolicies(controller, daemon *rest.Config) {
	r.Helper()
	r.ApplyOwnNode(r, "deploy/components/controller/admission.yaml")
	refuses := func(err error) error {
		if !apierrors.IsForbidden(err) {
			return fmt.Errorf("not refused: %w", err)
		}
		return nil
	}
	cluster.Eventually(r, "the policies in force", soon, func() error {
		return errors.Join(refuses(r.createWithSpec(daemon, "node-9")), refuses(r.patchNodeENI(controller, `{"spec":{"deviceIndex":7}}`)))
	})
}

// amidCreate starts two replicas, declares an ENI, and returns when EC2 has made it and the leader a waits for the answer. The other one is b.
func (r *region) amidCreate() (a, b *replica, answer *held) {
	r.Helper()
	a = r.start("a")
	r.awaitLeader(a)
	b = r.start("b")
	answer = a.holdNext("CreateNetworkInterface")
	r.declareENI()
	wait(r.T, answer.done)
	return a, b, answer
}

// TestControllerKilled: the leader dies between Create and its answer. The other finishes its work: there is one ENI.
func TestControllerKilled(t *testing.T) {
	r := newRegion(t)
	a, b, _ := r.amidCreate()
	a.proc.Kill()
	killed := time.Now()
	e := r.awaitEntry("an attached entry", attached)
	t.Logf("SIGKILL to attached: %v", time.Since(killed))
	r.one(e)
	if got, want := b.mutating(), []string{"AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"}; !slices.Equal(got, want) {
		t.Errorf("the other called %q, want %q: the ENI was there", got, want)
	}
}

// one fails unless EC2 has seen exactly one ENI of the controller, and still has it.
func (r *region) one(e v1alpha1.AttachmentEntry) {
	r.Helper()
	var made []string
	for _, n := range r.ec2.All() {
		if n.Tags["NodeENI"] != "" {
			made = append(made, n.ID)
		}
	}
	if !slices.Equal(made, []string{e.ENIID}) {
		r.Errorf("EC2 has seen the ENIs %q, want %s alone", made, e.ENIID)
	}
}

// TestControllerFrozen: the leader freezes with an answer under way, and thaws when another leads. It changes nothing any more.
func TestControllerFrozen(t *testing.T) {
	r := newRegion(t)
	a, b, answer := r.amidCreate()
	cluster.Must(t, a.proc.Signal(syscall.SIGSTOP))
	close(answer.let) // it waits in the socket
	frozen, said := time.Now(), len(a.log())
	r.awaitLeader(b)
	e := r.awaitEntry("an attached entry", attached)
	t.Logf("SIGSTOP to attached by the other: %v", time.Since(frozen))
	before := a.mutating()
	cluster.Must(t, a.proc.Signal(syscall.SIGCONT))
	a.awaitLog("leader no more", said)
	cluster.Holds(t, "the thawed leader changes nothing", calm, func() error {
		if now := a.mutating(); len(now) != len(before) {
			return fmt.Errorf("it called %q", now[len(before):])
		}
		return nil
	})
	for _, q := range r.writes() {
		if q.Code == http.StatusConflict {
			t.Logf("refused by its resourceVersion: %v", q)
		}
	}
	r.one(e)
	if now, err := r.entry(); err != nil || now.ENIID != e.ENIID || now.AttachmentID != e.AttachmentID {
		t.Errorf("the entry is %+v, %v; it was %+v", now, err, e)
	}
}

// TestControllerRival: while the public controller's Lease is fresh nothing is changed; once it has run out the work is done.
func TestControllerRival(t *testing.T) {
	r := newRegion(t)
	const elsewhere = "eni-controller-system"
	r.EnsureNamespace(t, elsewhere)
	leases := r.Admin.CoordinationV1().Leases(elsewhere)
	_, err := leases.Create(t.Context(), rival(elsewhere), metav1.CreateOptions{})
	cluster.Must(t, err)
	a := r.start("a")
	r.awaitLeader(a)
	r.declareENI()
	a.awaitLog("OtherController", 0)
	renewed := time.Now()
	cluster.Holds(t, "nothing is changed beside another controller", calm, func() error {
		if time.Since(renewed) > 2*time.Second {
			renewed = time.Now()
			cluster.Must(t, r.renew(elsewhere))
		}
		if got := a.mutating(); len(got) > 0 {
			return fmt.Errorf("it called %q", got)
		}
		return nil
	})
	cluster.Must(t, leases.Delete(t.Context(), leaseName, metav1.DeleteOptions{}))
	r.one(r.awaitEntry("an attached entry", attached))
}

// TestControllerNodeEvent: kubectl describe node finds a warning about the node's slot, once.
func TestControllerNodeEvent(t *testing.T) {
	r := newRegion(t)
	r.ec2.Fail("CreateNetworkInterface", "OperationNotPermitted")
	r.start("a")
	r.declareENI()
	node, err := r.Admin.CoreV1().Nodes().Get(t.Context(), fleetNode, metav1.GetOptions{})
	cluster.Must(t, err)
	found := func() error {
		// As kubectl describe asks.
		list, err := r.Admin.CoreV1().Events("").List(t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + fleetNode + ",involvedObject.uid=" + string(node.UID),
		})
		if err != nil {
			return err
		}
		var got []string
		for _, e := range list.Items {
			got = append(got, fmt.Sprint(e.Type, " ", e.Reason, " ", e.Count))
		}
		slices.Sort(got)
		if want := []string{"Warning ENICreationFailed 1", "Warning NotPermitted 1"}; !slices.Equal(got, want) {
			return fmt.Errorf("Events %q, want %q", got, want)
		}
		return nil
	}
	cluster.Eventually(t, "Events of the Node", soon, found)
	cluster.Holds(t, "no further Event", calm/2, found)
}

func wait(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatal("EC2 was not called")
	}
}
