package main

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// helperPatience bounds the wait for helpers, the processes that change drivers, at the end
// of the daemon. A helper that does not hang ends by itself in that time.
const helperPatience = 3 * time.Second

// unended returns the devices whose helper outlasts the daemon.
func unended(ctx context.Context, r *reconcile.Reconciler) []device.PCIAddress {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), helperPatience)
	defer cancel()
	return r.Unended(ctx)
}

// departure is the last act of the daemon. A helper that hangs in the kernel keeps the
// container from ending, and a DaemonSet makes no new pod while the old Pod object exists.
type departure struct {
	// asked: somebody wants the daemon to end, it has not failed.
	asked   bool
	devices []device.PCIAddress
	pod     client.OwnPod
	// release deletes the own Pod object; nil without a cluster.
	release func(context.Context, client.OwnPod) error
	log     logrus.FieldLogger
}

// end waits for the server, and returns its error. asked is a context that ends when somebody stops the daemon.
func (d departure) end(ctx, asked context.Context, served <-chan error) error {
	err := <-served
	d.asked = err == nil && asked.Err() != nil
	if err == nil {
		d.log.Info("multi-enid stopped")
	}
	d.leave(ctx)
	return err
}

// leave deletes the own Pod object if a helper holds the container, or logs how to do it. Without a helper it does nothing.
func (d departure) leave(ctx context.Context) {
	if len(d.devices) == 0 {
		return
	}
	log := d.log.WithField("pciAddresses", d.devices)
	if !d.asked || d.release == nil || !d.pod.Known() {
		log.Warn("changes of drivers are under way; a container cannot end before they do. In a cluster delete its pod by kubectl delete pod --force " +
			"--grace-period=0, see docs/dpdk.md")
		return
	}
	log = log.WithField("pod", d.pod.String())
	if err := d.release(context.WithoutCancel(ctx), d.pod); err != nil {
		log.WithError(err).Warnf("changes of drivers are under way; the container cannot end before they do, and its pod is not deleted: kubectl -n %s delete "+
			"pod %s --force --grace-period=0, see docs/dpdk.md", d.pod.Namespace, d.pod.Name)
		return
	}
	log.Warn("own Pod object is out of the way, by a deletion without grace, so that a new pod takes its place: changes of drivers are under way, and the " +
		"container cannot end before they do")
}
