package pluginpods

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// PartialError lists the pods and resources that a restart did not finish.
type PartialError struct {
	// Pods says, by namespace/name, why a pod does not serve the config.
	Pods map[string]error
	// Resources says why a resource is not offered as wanted.
	Resources map[device.ResourceName]error
}

func (e *PartialError) Error() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(e.Pods)) {
		all = append(all, fmt.Sprintf("pod %s: %v", name, e.Pods[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(e.Resources)) {
		all = append(all, fmt.Sprintf("resource %s: %v", name, e.Resources[name]))
	}
	return "device plugin does not serve its config: " + strings.Join(all, "; ")
}

func (e *PartialError) Unwrap() []error {
	return slices.AppendSeq(slices.Collect(maps.Values(e.Pods)), maps.Values(e.Resources))
}

type restart struct {
	*DevicePlugin
	want   pluginrestart.Wanted
	memory memory
	report pluginrestart.PluginReport
}

// Restart deletes the DaemonSets' pods that started before the config was written, and waits at most pluginPatience.
// The error is a *PartialError if not all pods that it found serve the config. It does not wait if only a person can help.
func (d *DevicePlugin) Restart(ctx context.Context, want pluginrestart.Wanted) (pluginrestart.PluginReport, error) {
	pods, report, err := d.search(ctx)
	if err != nil {
		return report, err
	}
	r := &restart{DevicePlugin: d, want: want, report: report, memory: memory{
		deleted: map[types.UID]bool{}, refused: map[types.UID]error{}, awaited: map[types.UID]string{},
	}}
	err = r.follow(ctx, pods)
	return r.report, err
}

// follow restarts the pods and watches them until they serve the config, only in the namespaces where they were found.
func (r *restart) follow(ctx context.Context, pods []corev1.Pod) error {
	var namespaces []string
	for i := range pods {
		namespaces = append(namespaces, pods[i].Namespace)
	}
	namespaces = slices.Compact(slices.Sorted(slices.Values(namespaces)))

	bounded, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	var last error
	for listed := true; ; {
		if listed {
			done, left := r.step(bounded, pods)
			if last = left; done {
				return r.end(ctx, pods, last)
			}
		}
		if !backoff.Sleep(bounded, r.poll) {
			return r.end(ctx, pods, last)
		}
		found, err := r.again(bounded, namespaces)
		if listed = err == nil; listed {
			pods = found
		} else if bounded.Err() == nil {
			last = err
		}
	}
}

// end is the error after the last look at the pods, which left that undone.
func (r *restart) end(ctx context.Context, pods []corev1.Pod, left error) error {
	switch {
	case left == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("restart device plugin: %w", ctx.Err())
	case len(pods) == 0 && len(r.report.Deleted) == 0:
		return pluginrestart.ErrNoDevicePlugin // somebody has removed it
	}
	return left
}

func (r *restart) again(ctx context.Context, namespaces []string) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	for _, namespace := range namespaces {
		found, err := r.list(ctx, namespace)
		if err != nil {
			return nil, fmt.Errorf("look for the restarted device plugin in namespace %s: %w", namespace, err)
		}
		pods = append(pods, found...)
	}
	r.report.Pods, r.report.Prefixes, r.report.Readers = podNames(pods), prefixes(pods, r.config), runs(pods, r.config)
	return pods, nil
}

// step deletes the outdated pods. Done: waiting no longer helps. The error lists unfinished pods and resources.
func (r *restart) step(ctx context.Context, pods []corev1.Pod) (done bool, left error) {
	for i := range pods {
		if owner := daemonSet(&pods[i]); owner != nil && pods[i].DeletionTimestamp != nil {
			r.memory.awaited[owner.UID] = podName(&pods[i])
		}
	}
	p := decide(pods, r.config, r.want, r.memory, r.now())
	if len(p.remove) > 0 {
		r.tell(ctx, p.remove)
		for _, pod := range p.remove {
			r.remove(ctx, pod)
		}
		p = decide(pods, r.config, r.want, r.memory, r.now())
	}
	if len(p.waits) > 0 || len(p.stuck) > 0 {
		why := maps.Clone(p.waits)
		maps.Copy(why, p.stuck)
		return len(p.waits) == 0, &PartialError{Pods: why}
	}
	if len(pods) == 0 {
		return true, pluginrestart.ErrNoDevicePlugin // the last has gone, and nothing replaces it
	}
	if wrong := r.offered(ctx); len(wrong) > 0 {
		return false, &PartialError{Resources: wrong}
	}
	return true, nil
}

// remove deletes a pod with its own grace period, unless another pod has its name.
func (r *restart) remove(ctx context.Context, pod *corev1.Pod) {
	err := r.client.Core.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case err == nil:
		r.report.Deleted = append(r.report.Deleted, podName(pod))
		slices.Sort(r.report.Deleted)
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // it was replaced already
	default:
		r.memory.refused[pod.UID] = fmt.Errorf("delete it: %w", err)
		return
	}
	r.memory.deleted[pod.UID] = true
	r.memory.awaited[daemonSet(pod).UID] = podName(pod)
}

// tell logs the holders of devices whose resources are withdrawn for a moment. They keep them.
func (r *restart) tell(ctx context.Context, pods []*corev1.Pod) {
	var names []string
	for _, pod := range pods {
		names = append(names, podName(pod))
	}
	log := r.log.WithFields(logrus.Fields{"pods": names, "config": r.want.Hash})
	if r.kubelet != nil {
		if known, err := r.kubelet(ctx); err != nil {
			log = log.WithError(err)
		} else {
			log = log.WithField("holders", holders(known, r.want))
		}
	}
	log.Info("restarting device plugin")
}

// holders are the pods with a device of a wanted resource, sorted.
func holders(known inventory.Kubelet, want pluginrestart.Wanted) []string {
	var all []string
	for name, wanted := range want.Devices {
		for _, address := range slices.Concat(wanted, known.Allocatable[name]) {
			for _, c := range known.Allocated[address] {
				all = append(all, c.Namespace+"/"+c.Pod)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// offered says which resources the kubelet does not offer as wanted.
func (r *restart) offered(ctx context.Context) map[device.ResourceName]error {
	if r.kubelet == nil {
		return nil
	}
	wrong := map[device.ResourceName]error{}
	known, err := r.kubelet(ctx)
	for name, want := range r.want.Devices {
		want, got := slices.Sorted(slices.Values(want)), known.Allocatable[name]
		if err != nil {
			wrong[name] = err
		} else if !slices.Equal(want, got) {
			wrong[name] = fmt.Errorf("the kubelet offers %v, want %v", got, want)
		}
	}
	return wrong
}
