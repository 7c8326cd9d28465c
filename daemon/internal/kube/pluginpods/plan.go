package pluginpods

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type memory struct {
	// deleted are pods that this restart deleted or found replaced. The API server's cache may still list them.
	deleted map[types.UID]bool
	// refused says why a pod could not be deleted.
	refused map[types.UID]error
	// awaited are the DaemonSets that must have a pod here again, with the old pod's name.
	awaited map[types.UID]string
}

// plan has the next steps. Empty: every pod has read the config and is ready.
type plan struct {
	remove []*corev1.Pod
	// waits has the pods that need only time, stuck the others, by name.
	waits, stuck map[string]error
}

// decide compares the pods at the time now with the wanted config.
func decide(pods []corev1.Pod, config string, want pluginrestart.Wanted, m memory, now time.Time) plan {
	p := plan{waits: map[string]error{}, stuck: map[string]error{}}
	there := map[types.UID]bool{}
	apart := map[string]error{}
	for i := range pods {
		pod := &pods[i]
		name := podName(pod)
		owner := daemonSet(pod)
		if pod.DeletionTimestamp != nil || m.deleted[pod.UID] {
			p.waits[name] = errors.New("it is still ending")
			continue
		}
		if owner != nil {
			there[owner.UID] = true
		}
		reading := readers(pod, config)
		switch {
		case len(reading) == 0:
			apart[name] = errors.New("it takes its config from elsewhere")
		case !outdated(reading, want, now):
			if why := unready(pod); why != nil {
				p.waits[name] = why
			}
		case owner == nil:
			p.stuck[name] = errors.New("it serves an earlier config, and has no DaemonSet that would replace it")
		case m.refused[pod.UID] != nil:
			p.stuck[name] = m.refused[pod.UID]
		default:
			p.remove = append(p.remove, pod)
		}
	}
	for owner, before := range m.awaited {
		if !there[owner] && p.waits[before] == nil {
			p.waits[before] = errors.New("its DaemonSet has not replaced it")
		}
	}
	if len(apart) == len(pods) {
		p.stuck = apart
	}
	return p
}

// reader is a container that sees the config file. Its status is nil before the kubelet reports it.
type reader struct {
	pod    types.UID
	status *corev1.ContainerStatus
	// command is the pod's command line; the image may put more in front.
	command []string
	// once: it is an init container that runs to its end.
	once bool
}

// readers are the containers that mount the config from the host. If there are none, init containers that run once count:
// they may copy it for the others.
func readers(p *corev1.Pod, config string) []reader {
	from := map[string]string{}
	for _, v := range p.Spec.Volumes {
		if v.HostPath != nil {
			from[v.Name] = v.HostPath.Path
		}
	}
	var all, once []reader
	for _, c := range p.Spec.Containers {
		if mountsConfig(c, from, config) {
			all = append(all, reader{pod: p.UID, status: statusOf(p.Status.ContainerStatuses, c.Name), command: slices.Concat(c.Command, c.Args)})
		}
	}
	for _, c := range p.Spec.InitContainers {
		if !mountsConfig(c, from, config) {
			continue
		}
		r := reader{pod: p.UID, status: statusOf(p.Status.InitContainerStatuses, c.Name), command: slices.Concat(c.Command, c.Args)}
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, r)
			continue
		}
		r.once = true
		once = append(once, r)
	}
	if len(all) == 0 {
		return once
	}
	return all
}

// mountsConfig says whether a container mounts the config file or a folder above it. Only the kubelet knows where a subPathExpr leads;
// it counts.
func mountsConfig(c corev1.Container, from map[string]string, config string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
		folder, ok := from[m.Name]
		return ok && within(config, path.Join(folder, m.SubPath))
	})
}

func within(file, folder string) bool {
	file, folder = path.Clean(file), path.Clean(folder)
	return file == folder || strings.HasPrefix(file, strings.TrimSuffix(folder, "/")+"/")
}

func statusOf(all []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// run is the container's run that has read the config, or is about to; false without one.
func (r reader) run() (nodestate.Reader, bool) {
	if r.status == nil {
		return nodestate.Reader{}, false
	}
	run := nodestate.Reader{Pod: string(r.pod), Container: r.status.Name}
	switch {
	case r.status.State.Running != nil:
		run.Started = r.status.State.Running.StartedAt.Unix()
	case r.status.State.Terminated != nil && r.once:
		run.Started = r.status.State.Terminated.StartedAt.Unix()
	default:
		return nodestate.Reader{}, false
	}
	return run, true
}

// runs are the runs of all pods that read the config, sorted.
func runs(pods []corev1.Pod, config string) []nodestate.Reader {
	var all []nodestate.Reader
	for i := range pods {
		for _, r := range readers(&pods[i], config) {
			if run, ok := r.run(); ok {
				all = append(all, run)
			}
		}
	}
	slices.SortFunc(all, func(a, b nodestate.Reader) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container), cmp.Compare(a.Started, b.Started))
	})
	return all
}

// outdated: a container may have read another config, and will not soon read this one by itself. A container that has yet to start will.
func outdated(all []reader, want pluginrestart.Wanted, now time.Time) bool {
	return slices.ContainsFunc(all, func(r reader) bool {
		if run, ok := r.run(); ok {
			return !want.HasRead(run, now)
		}
		if r.status == nil || r.status.State.Waiting == nil || r.status.State.Waiting.Reason != "CrashLoopBackOff" {
			return false
		}
		// The kubelet waits up to 5 min. A container that crashed with this config would crash again.
		last := r.status.LastTerminationState.Terminated
		return last == nil || !want.Precedes(last.StartedAt.Time)
	})
}

// unready is why a pod is not ready, or nil.
func unready(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if c.State.Waiting != nil && c.State.Waiting.Reason != "" {
			return fmt.Errorf("it is not ready: container %s is in %s", c.Name, c.State.Waiting.Reason)
		}
	}
	return errors.New("it is not ready")
}
