package kube_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// devicePluginModel is the device plugin's DaemonSet with its pod on this node.
type devicePluginModel struct {
	w         *neighbourhood
	installed bool
	// prefixed: it has a resource prefix of its own.
	prefixed bool
	pod      *sriovdpPod
	pods     int
}

// sriovdpPod reads the config soon after its container starts, exits where the plugin would, and is restarted by the kubelet.
type sriovdpPod struct {
	uid string
	// started is the container's start, zero before; crashed is set while the container waits for a restart.
	started time.Time
	crashed bool
	crashes int
	read    []byte
	runs    bool
	// ending is when the deletion began.
	ending time.Time
	// next is the timer of the next change.
	next *time.Timer
}

func (m *devicePluginModel) prefix() string {
	if m.prefixed {
		return "example.org"
	}
	return "intel.com"
}

func (m *devicePluginModel) args() []string {
	if m.prefixed {
		return []string{"--resource-prefix=example.org"}
	}
	return nil
}

func (m *devicePluginModel) judge(content []byte) dpmodel.Verdict {
	return dpmodel.Judge(content, m.w.devices(), m.args()...)
}

func (m *devicePluginModel) install() {
	m.installed, m.prefixed = true, m.w.rnd.IntN(4) == 0
	m.schedule()
}

func (m *devicePluginModel) uninstall() {
	m.installed = false
	m.end()
}

// schedule makes a pod, as the DaemonSet's controller does.
func (m *devicePluginModel) schedule() {
	if !m.installed || m.pod != nil {
		return
	}
	m.pods++
	p := &sriovdpPod{uid: fmt.Sprintf("dp-%d", m.pods)}
	m.pod = p
	m.later(p, 500*time.Millisecond+m.delay(3*time.Second), func() { m.run(p) })
}

func (m *devicePluginModel) delay(most time.Duration) time.Duration {
	return time.Duration(m.w.rnd.Int64N(int64(most)))
}

// later calls f unless another pod has replaced this one by then.
func (m *devicePluginModel) later(p *sriovdpPod, d time.Duration, f func()) {
	p.next = time.AfterFunc(d, func() {
		m.w.do(func() {
			if m.pod == p {
				f()
			}
		})
	})
}

func (m *devicePluginModel) run(p *sriovdpPod) {
	p.started, p.crashed, p.read, p.runs = time.Now(), false, nil, false
	m.later(p, m.delay(900*time.Millisecond), func() {
		p.read = append([]byte{}, m.w.content()...)
		p.runs = m.judge(p.read).Runs()
		m.w.note("device plugin %s has read the config, runs: %t", p.uid, p.runs)
		if !p.runs {
			p.crashed, p.crashes = true, p.crashes+1
			m.later(p, min(10*time.Second<<min(p.crashes-1, 5), 5*time.Minute), func() { m.run(p) })
		}
	})
}

// end removes the pod at once.
func (m *devicePluginModel) end() {
	if m.pod != nil && m.pod.next != nil {
		m.pod.next.Stop()
	}
	m.pod = nil
}

// remove deletes the pod as the API server and the kubelet do.
func (m *devicePluginModel) remove() {
	p := m.pod
	if !p.ending.IsZero() {
		return
	}
	p.ending = time.Now()
	p.next.Stop()
	m.later(p, m.delay(2*time.Second), func() {
		m.end()
		time.AfterFunc(m.delay(time.Second), func() { m.w.do(m.schedule) })
	})
}

// happen is an event without the daemon's part.
func (m *devicePluginModel) happen(rnd *rand.Rand) string {
	p := m.pod
	switch n := rnd.IntN(4); {
	case !m.installed:
		m.install()
		m.w.woken()
		return "device plugin installed"
	case p == nil || !p.ending.IsZero():
		return "nothing"
	case n == 0:
		m.installed = false
		m.remove()
		return "device plugin removed"
	case n == 1:
		m.remove()
		return "device plugin's pod deleted"
	case p.read == nil:
		return "nothing"
	}
	p.next.Stop()
	m.run(p)
	return "device plugin's container restarts"
}

func (m *devicePluginModel) heal() {
	if !m.installed {
		m.install()
		m.w.woken()
	}
}

func (m *devicePluginModel) kubelet(context.Context) (known inventory.Kubelet, err error) {
	m.w.do(func() {
		known.Allocatable = map[device.ResourceName][]device.PCIAddress{}
		known.Allocated = map[device.PCIAddress][]inventory.Container{}
		if p := m.pod; p != nil && p.runs {
			for name, offered := range m.judge(p.read).Resources {
				known.Allocatable[device.ResourceName(name)] = offered
			}
		}
	})
	return known, nil
}

func (m *devicePluginModel) object() corev1.Pod {
	p, controller := m.pod, true
	o := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "kube-system", Name: p.uid, UID: types.UID(p.uid), Labels: map[string]string{"app": "sriovdp"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "sriovdp", UID: "ds", Controller: &controller}},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-a",
			Volumes:  []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: m.w.path("pcidp")}}}},
			Containers: []corev1.Container{{Name: "dp", Args: append([]string{"--log-level=10"}, m.args()...),
				VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/pcidp"}}}},
		},
	}
	if !p.ending.IsZero() {
		at := metav1.NewTime(p.ending)
		o.DeletionTimestamp = &at
	}
	state, ready := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}, corev1.ConditionFalse
	last := corev1.ContainerState{}
	started := metav1.NewTime(p.started.Truncate(time.Second))
	switch {
	case p.crashed:
		state.Waiting.Reason = "CrashLoopBackOff"
		last.Terminated = &corev1.ContainerStateTerminated{StartedAt: started}
	case !p.started.IsZero():
		state, ready = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}, corev1.ConditionTrue
	}
	o.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "dp", State: state, LastTerminationState: last}}
	o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	return o
}

func podNamespace(e int) string { return fmt.Sprintf("ns%d", 1+e%2) }
