package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// controllerWorld is a cluster and a region that answer the controller's doctor.
type controllerWorld struct {
	down, uidErr, leaseErr, rivalErr, surveyErr, sampleErr error

	denied    string // verb and resource
	resources []string
	holder    string
	renewed   time.Time
	rival     string
	survey    Survey
	rights    []vpc.Permission
	instances map[string]vpc.Instance
}

var doctorNoon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func healthyController() *controllerWorld {
	return &controllerWorld{
		resources: []string{"nodeenis", "eninodestates"}, holder: "multi-enid-controller_a_1", renewed: doctorNoon.Add(-3 * time.Second),
		survey: Survey{Nodes: 3, NodeENIs: 2, Instances: []string{"i-1", "i-2"}},
		rights: []vpc.Permission{{Action: "CreateNetworkInterface"}, {Action: "DeleteNetworkInterface"}},
		instances: map[string]vpc.Instance{
			"i-1": {Tags: map[string]string{"kubernetes.io/cluster/prod": "owned"}}, "i-2": {Tags: map[string]string{"kubernetes.io/cluster/prod": "shared"}},
		},
	}
}

func (w *controllerWorld) Version(context.Context) (string, error)     { return "v1.36.3", w.down }
func (w *controllerWorld) Resources(context.Context) ([]string, error) { return w.resources, nil }
func (w *controllerWorld) AllowedOn(_ context.Context, verb, _, resource, namespace, name string) (bool, error) {
	return w.denied != strings.TrimSpace(strings.Join([]string{verb, resource, namespace, name}, " ")), nil
}
func (w *controllerWorld) ClusterUID(context.Context) (string, error) { return "c-uid", w.uidErr }
func (w *controllerWorld) Leader(context.Context) (string, time.Time, error) {
	return w.holder, w.renewed, w.leaseErr
}
func (w *controllerWorld) Rival(context.Context) (string, error)  { return w.rival, w.rivalErr }
func (w *controllerWorld) Survey(context.Context) (Survey, error) { return w.survey, w.surveyErr }
func (w *controllerWorld) Sample(_ context.Context, cluster, instance string) (vpc.Sample, error) {
	return vpc.Sample{Cluster: cluster, Instance: instance}, w.sampleErr
}
func (w *controllerWorld) Permissions(_ context.Context, s vpc.Sample) []vpc.Permission {
	if s.Cluster == "" || s.Instance == "" {
		return []vpc.Permission{{Action: "AttachNetworkInterface", Err: &vpc.EC2Error{Kind: vpc.EC2Unknown, Err: errors.New("not asked")}}}
	}
	return w.rights
}
func (w *controllerWorld) Instance(_ context.Context, id string) (vpc.Instance, error) {
	i, known := w.instances[id]
	if !known {
		return i, errors.New("no such instance")
	}
	return i, nil
}

func (w *controllerWorld) findings(t *testing.T) []Finding {
	t.Helper()
	return RunController(t.Context(), ControllerOptions{Namespace: "kube-system", Cluster: w, EC2: w, Now: func() time.Time { return doctorNoon }})
}

func TestControllerHealthy(t *testing.T) {
	var got []string
	for _, f := range healthyController().findings(t) {
		if f.Level != OK {
			t.Errorf("%v", f)
		}
		got = append(got, f.Check)
	}
	want := []string{"Kubernetes API", "CRDs", "RBAC nodeenis.networking.k8s.aws", "RBAC nodeenis.networking.k8s.aws/status",
		"RBAC eninodestates.networking.k8s.aws", "RBAC nodes", "RBAC namespaces", "RBAC events", "RBAC leases.coordination.k8s.io",
		"RBAC leases.coordination.k8s.io", "RBAC leases.coordination.k8s.io", "cluster", "leader", "other controller", "objects", "EC2", "instances"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// TestControllerFaults: each fault is found, with its level, its subject and a remedy.
func TestControllerFaults(t *testing.T) {
	forbidden := &vpc.EC2Error{Kind: vpc.EC2Forbidden, Code: "UnauthorizedOperation", Service: "EC2", Err: errors.New("denied")}
	many := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprintf("node-%d", i))
		}
		return names
	}
	for name, tt := range map[string]struct {
		breaks func(w *controllerWorld)
		level  Level
		check  string
		text   []string
	}{
		"no API server": {func(w *controllerWorld) { w.down = errors.New("refused") }, Fail, "Kubernetes API", []string{"refused", "kubeconfig"}},
		"no CRD":        {func(w *controllerWorld) { w.resources = nil }, Fail, "CRDs", []string{"deploy/crd"}},
		"no patch": {func(w *controllerWorld) { w.denied = "patch nodeenis" }, Fail, "RBAC nodeenis.networking.k8s.aws",
			[]string{"patch denied", "deploy/components/controller"}},
		"no Lease right": {func(w *controllerWorld) { w.denied = "update leases kube-system " + leaseName }, Fail, "RBAC leases.coordination.k8s.io",
			[]string{"update denied on " + leaseName + " in kube-system"}},
		"no list of Leases": {func(w *controllerWorld) { w.denied = "list leases  " + leaseName }, Fail, "RBAC leases.coordination.k8s.io",
			[]string{"list denied on " + leaseName, "another controller"}},
		"no UID":            {func(w *controllerWorld) { w.uidErr = errors.New("no get") }, Fail, "cluster", []string{"no get", "kube-system"}},
		"no Lease":          {func(w *controllerWorld) { w.leaseErr = errors.New("no get") }, Fail, "leader", []string{"no get", "--namespace"}},
		"nobody leads":      {func(w *controllerWorld) { w.holder = "" }, Warn, "leader", []string{"nobody", "controller.enabled"}},
		"dead leader":       {func(w *controllerWorld) { w.renewed = doctorNoon.Add(-time.Minute) }, Warn, "leader", []string{"since 2026-01-02T11:59:00Z"}},
		"public controller": {func(w *controllerWorld) { w.rival = "aws/x" }, Fail, "other controller", []string{"aws/x", "docs/migration.md"}},
		"rivals unknown":    {func(w *controllerWorld) { w.rivalErr = errors.New("no list") }, Fail, "other controller", []string{"no list"}},
		"no objects":        {func(w *controllerWorld) { w.surveyErr = errors.New("too slow") }, Fail, "objects", []string{"too slow"}},
		"unreadable":        {func(w *controllerWorld) { w.survey.Unreadable = []string{"NodeENI x"} }, Fail, "objects", []string{"NodeENI x"}},
		"no providerID":     {func(w *controllerWorld) { w.survey.NoInstance = many(7) }, Warn, "nodes", []string{"node-4 and 2 more", "providerID"}},
		"Auto Mode":         {func(w *controllerWorld) { w.survey.AutoMode = many(1) }, Warn, "nodes", []string{"node-0", "Auto Mode"}},
		"old daemons": {func(w *controllerWorld) { w.survey.OldDaemons = many(2) }, Warn, "daemons",
			[]string{"node-0, node-1", "--attachments-from=controller"}},
		"silent daemons": {func(w *controllerWorld) { w.survey.SilentDaemons = many(1) }, Warn, "daemons", []string{"node-0", "5 minutes", "may have given"}},
		"faults": {func(w *controllerWorld) {
			w.survey.Faults = slices.Repeat([]SlotFault{{"net", "node-1", "NoSubnetInZone", "add a subnet"}}, 6)
		}, Warn, "NodeENI net on node-1", []string{"NoSubnetInZone", "add a subnet"}},
		"denied in EC2": {func(w *controllerWorld) {
			w.rights = append(w.rights, vpc.Permission{Action: "AttachNetworkInterface", Err: forbidden})
		}, Fail, "EC2", []string{"AttachNetworkInterface denied", "deploy/iam/multi-enid-controller.json", "docs/controller.md"}},
		"EC2 away": {func(w *controllerWorld) {
			w.rights = []vpc.Permission{{Action: "x", Err: &vpc.EC2Error{Kind: vpc.EC2NotSent, Err: errors.New("no route")}}}
		}, Fail, "EC2", []string{"no route", "NAT gateway"}},
		"EC2 not asked": {func(w *controllerWorld) { w.survey.Instances = nil }, Warn, "EC2", []string{"AttachNetworkInterface (not asked)"}},
		"EC2 unauthenticated": {func(w *controllerWorld) {
			w.sampleErr = &vpc.EC2Error{Kind: vpc.EC2Unauthenticated, Code: "AuthFailure", Service: "EC2", Err: errors.New("who are you")}
		}, Fail, "EC2", []string{"who are you", "AWS_REGION"}},
		"EC2 says nothing": {func(w *controllerWorld) {
			w.rights = []vpc.Permission{{Action: "x", Err: &vpc.EC2Error{Kind: vpc.EC2Refused, Code: "Odd", Service: "EC2", Err: errors.New("odd")}}}
		}, Warn, "EC2", []string{"x (odd)", "multi-enid-controller.json"}},
		"untagged instance": {func(w *controllerWorld) { w.instances["i-2"] = vpc.Instance{} }, Fail, "instances", []string{"i-2", "AttachNetworkInterface"}},
		"unknown instance":  {func(w *controllerWorld) { delete(w.instances, "i-1") }, Warn, "instances", []string{"i-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := healthyController()
			tt.breaks(w)
			found := w.findings(t)
			i := slices.IndexFunc(found, func(f Finding) bool { return f.Level != OK })
			if i < 0 {
				t.Fatalf("no fault in %v", found)
			}
			f := found[i]
			if f.Level != tt.level || f.Check != tt.check || f.Remedy == "" {
				t.Errorf("%v, want %s %s", f, tt.level, tt.check)
			}
			for _, text := range tt.text {
				if !strings.Contains(f.String(), text) {
					t.Errorf("%v, want %q in it", f, text)
				}
			}
		})
	}
}

// TestControllerWithoutCluster: only EC2 is asked.
func TestControllerWithoutCluster(t *testing.T) {
	found := RunController(t.Context(), ControllerOptions{ClusterErr: errors.New("no token"), EC2: healthyController(), Now: time.Now})
	if len(found) != 2 || found[0].Level != Fail || found[1].Check != "EC2" {
		t.Errorf("%v", found)
	}
}
