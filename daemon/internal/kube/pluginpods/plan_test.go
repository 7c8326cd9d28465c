package pluginpods

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// written is when the config was written. A container started at second 12 or later has certainly read it.
var written = time.Date(2026, 1, 2, 3, 4, 10, 300e6, time.UTC)

const configFile = "/etc/pcidp/config.json"

// at is a start in that second of written's minute.
func at(second int) corev1.ContainerState {
	started := written.Truncate(time.Minute).Add(time.Duration(second) * time.Second)
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Time{Time: started}}}
}

func ended(second int) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: at(second).Running.StartedAt}}
}

func waiting(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

// pluginPod is a ready pod of a DaemonSet, its one container in that state.
func pluginPod(name string, state corev1.ContainerState) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "kube-system", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "sriovdp"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "dp", UID: "uid-ds", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName:   "node-a",
			Volumes:    []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc/pcidp"}}}},
			Containers: []corev1.Container{{Name: "dp", VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/pcidp"}}}},
		},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "dp", State: state}},
		},
	}
}

func with(p corev1.Pod, change func(*corev1.Pod)) corev1.Pod {
	change(&p)
	return p
}

func bare(p *corev1.Pod)     { p.OwnerReferences = nil }
func deleting(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: written} }
func notReady(p *corev1.Pod) { p.Status.Conditions = nil }
func configMap(p *corev1.Pod) {
	p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}
}

func hostPath(folder, sub string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes[0].HostPath.Path = folder
		p.Spec.Containers[0].VolumeMounts[0].SubPath = sub
	}
}

func second(mounts bool, state corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: "other"}
		if mounts {
			c.VolumeMounts = p.Spec.Containers[0].VolumeMounts
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "other", State: state})
	}
}

// initOnly lets only an init container mount the config.
func initOnly(state corev1.ContainerState, policy *corev1.ContainerRestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "init", RestartPolicy: policy, VolumeMounts: p.Spec.Containers[0].VolumeMounts}}
		p.Spec.Containers[0].VolumeMounts = nil
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: state}}
	}
}

func lastRun(second int) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses[0].LastTerminationState = ended(second) }
}

func TestDecide(t *testing.T) {
	old, young := at(9), at(12)
	refused := errors.New("no")
	for name, tc := range map[string]struct {
		pods                 []corev1.Pod
		memory               memory
		before               time.Time
		readers              map[nodestate.Reader]bool
		remove, waits, stuck []string
	}{
		"started before":                     {pods: []corev1.Pod{pluginPod("a", old)}, remove: []string{"a"}},
		"when this config was there before":  {pods: []corev1.Pod{pluginPod("a", old)}, before: written.Add(time.Second)},
		"when another was there":             {pods: []corev1.Pod{pluginPod("a", old)}, before: written.Add(-5 * time.Second), remove: []string{"a"}},
		"started before, known to read this": {pods: []corev1.Pod{pluginPod("a", old)}, readers: map[nodestate.Reader]bool{readerRun("a", old): true}},
		"started later, known to read another": {pods: []corev1.Pod{pluginPod("a", young)}, readers: map[nodestate.Reader]bool{readerRun("a", young): false},
			remove: []string{"a"}},
		"another run is known": {pods: []corev1.Pod{pluginPod("a", old)},
			readers: map[nodestate.Reader]bool{readerRun("a", young): true, readerRun("b", old): true}, remove: []string{"a"}},
		"before the clock was set back": {pods: []corev1.Pod{pluginPod("a", at(90))}, remove: []string{"a"}},
		"in the second of writing":      {pods: []corev1.Pod{pluginPod("a", at(10))}, remove: []string{"a"}},
		"in the second after":           {pods: []corev1.Pod{pluginPod("a", at(11))}, remove: []string{"a"}},
		"later":                         {pods: []corev1.Pod{pluginPod("a", young)}},
		"later, not ready":              {pods: []corev1.Pod{with(pluginPod("a", young), notReady)}, waits: []string{"a"}},
		"every match":                   {pods: []corev1.Pod{pluginPod("a", old), pluginPod("b", young), pluginPod("c", old)}, remove: []string{"a", "c"}},
		"being created":                 {pods: []corev1.Pod{with(pluginPod("a", waiting("ContainerCreating")), notReady)}, waits: []string{"a"}},
		"no status yet": {pods: []corev1.Pod{with(pluginPod("a", old),
			func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} })}, waits: []string{"a"}},
		"crash loop":              {pods: []corev1.Pod{with(with(pluginPod("a", waiting("CrashLoopBackOff")), notReady), lastRun(9))}, remove: []string{"a"}},
		"crash loop, no last run": {pods: []corev1.Pod{with(pluginPod("a", waiting("CrashLoopBackOff")), notReady)}, remove: []string{"a"}},
		"crash loop with this config": {pods: []corev1.Pod{with(with(pluginPod("a", waiting("CrashLoopBackOff")), notReady), lastRun(12))},
			waits: []string{"a"}},
		"between two runs":      {pods: []corev1.Pod{with(pluginPod("a", ended(9)), notReady)}, waits: []string{"a"}},
		"already being deleted": {pods: []corev1.Pod{with(pluginPod("a", old), deleting)}, waits: []string{"a"}},
		"deleted, in a list that lags": {pods: []corev1.Pod{pluginPod("a", old)}, memory: memory{deleted: map[types.UID]bool{"uid-a": true}},
			waits: []string{"a"}},
		"deleted, not yet replaced": {memory: memory{awaited: map[types.UID]string{"uid-ds": "kube-system/a"}}, waits: []string{"a"}},
		"deleted and replaced":      {pods: []corev1.Pod{pluginPod("b", young)}, memory: memory{awaited: map[types.UID]string{"uid-ds": "kube-system/a"}}},
		"could not be deleted": {pods: []corev1.Pod{pluginPod("a", old)}, memory: memory{refused: map[types.UID]error{"uid-a": refused}},
			stuck: []string{"a"}},
		"bare":                    {pods: []corev1.Pod{with(pluginPod("a", old), bare)}, stuck: []string{"a"}},
		"bare, restarted by hand": {pods: []corev1.Pod{with(pluginPod("a", young), bare)}},
		"of a ReplicaSet": {pods: []corev1.Pod{with(pluginPod("a", old), func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "ReplicaSet" })},
			stuck: []string{"a"}},
		"owned, not controlled": {pods: []corev1.Pod{with(pluginPod("a", old), func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil })},
			stuck: []string{"a"}},
		"of another DaemonSet": {pods: []corev1.Pod{with(pluginPod("a", old),
			func(p *corev1.Pod) { p.OwnerReferences[0].APIVersion = "apps.kruise.io/v1" })}, stuck: []string{"a"}},
		"from a ConfigMap":                  {pods: []corev1.Pod{with(pluginPod("a", old), configMap)}, stuck: []string{"a"}},
		"one from a ConfigMap, one not":     {pods: []corev1.Pod{with(pluginPod("a", old), configMap), pluginPod("b", old)}, remove: []string{"b"}},
		"one from a ConfigMap, one serving": {pods: []corev1.Pod{with(pluginPod("a", old), configMap), pluginPod("b", young)}},
		"mounts a folder above":             {pods: []corev1.Pod{with(pluginPod("a", old), hostPath("/etc/", ""))}, remove: []string{"a"}},
		"mounts the root":                   {pods: []corev1.Pod{with(pluginPod("a", old), hostPath("/", ""))}, remove: []string{"a"}},
		"mounts the file":                   {pods: []corev1.Pod{with(pluginPod("a", old), hostPath(configFile, ""))}, remove: []string{"a"}},
		"mounts a subPath that leads there": {pods: []corev1.Pod{with(pluginPod("a", old), hostPath("/etc", "pcidp"))}, remove: []string{"a"}},
		"mounts another subPath":            {pods: []corev1.Pod{with(pluginPod("a", old), hostPath("/etc", "pci"))}, stuck: []string{"a"}},
		"mounts a folder beside":            {pods: []corev1.Pod{with(pluginPod("a", old), hostPath("/etc/pcidp2", ""))}, stuck: []string{"a"}},
		"mounts a folder below":             {pods: []corev1.Pod{with(pluginPod("a", old), hostPath("/etc/pcidp/d", ""))}, stuck: []string{"a"}},
		"the earliest of two counts":        {pods: []corev1.Pod{with(pluginPod("a", young), second(true, old))}, remove: []string{"a"}},
		"one that does not mount it":        {pods: []corev1.Pod{with(pluginPod("a", young), second(false, old))}},
		"an init container copies it":       {pods: []corev1.Pod{with(pluginPod("a", young), initOnly(ended(9), nil))}, remove: []string{"a"}},
		"an init container copied it later": {pods: []corev1.Pod{with(pluginPod("a", young), initOnly(ended(12), nil))}},
		"a sidecar reads it": {pods: []corev1.Pod{with(pluginPod("a", young), initOnly(old, new(corev1.ContainerRestartPolicyAlways)))},
			remove: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := decide(tc.pods, configFile, pluginrestart.Wanted{Written: written, Before: tc.before, Readers: tc.readers}, tc.memory, written.Add(time.Minute))
			for what, c := range map[string]struct{ want, got []string }{
				"remove": {tc.remove, names(got.remove)},
				"waits":  {qualified(tc.waits), slices.Sorted(maps.Keys(got.waits))},
				"stuck":  {qualified(tc.stuck), slices.Sorted(maps.Keys(got.stuck))},
			} {
				if diff := cmp.Diff(c.want, c.got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

func readerRun(name string, state corev1.ContainerState) nodestate.Reader {
	return nodestate.Reader{Pod: "uid-" + name, Container: "dp", Started: state.Running.StartedAt.Unix()}
}

func names(pods []*corev1.Pod) []string {
	var all []string
	for _, p := range pods {
		all = append(all, p.Name)
	}
	return all
}

func qualified(names []string) []string {
	var all []string
	for _, n := range names {
		all = append(all, "kube-system/"+n)
	}
	return all
}

func TestPodProblems(t *testing.T) {
	pods := []corev1.Pod{
		pluginPod("fine", at(9)),
		with(pluginPod("fed-1", at(9)), configMap),
		with(pluginPod("fed-2", at(12)), configMap), // its successor: the same problem
		with(pluginPod("bare", at(12)), bare),
	}
	var got []string
	for _, p := range podProblems(pods, configFile) {
		got = append(got, string(p.Reason)+" "+p.Device)
	}
	want := []string{"DevicePluginUnowned kube-system/bare", "DevicePluginConfigElsewhere kube-system/dp"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
