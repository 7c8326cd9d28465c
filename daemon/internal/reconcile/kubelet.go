package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// kubeletTimeout bounds the question to the kubelet, which is on this machine.
	kubeletTimeout = time.Second
	// silentFirst and silentLatest bound the waits before a kubelet that did not
	// answer in time is asked again; they double.
	silentFirst  = 2 * time.Second
	silentLatest = 15 * time.Second
)

// Kubelet is the kubelet of this node; an error means that nothing is known.
type Kubelet interface {
	Devices(ctx context.Context) (inventory.Kubelet, error)
}

// kubeletAnswer is the kubelet's answer to the only question of one Sync.
// Everything that needs the kubelet shares it.
type kubeletAnswer struct {
	asked   bool
	devices inventory.Kubelet
	err     error
	// silent: the kubelet did not answer in time. It is not asked before until.
	silent time.Duration
	until  time.Time
}

// forget makes the next question a new one. The error of a kubelet that hangs
// stays until it may be asked again.
func (k *kubeletAnswer) forget(now time.Time) {
	if left := k.until.Sub(now); left > 0 && left <= k.silent { // else the clock was set back
		return
	}
	k.asked = false
}

// kubeletDevices asks the kubelet, at most once in a Sync.
func (r *Reconciler) kubeletDevices(ctx context.Context) (inventory.Kubelet, error) {
	k := &r.kubelet
	if k.asked {
		return k.devices, k.err
	}
	bounded, cancel := context.WithTimeout(ctx, kubeletTimeout)
	defer cancel()
	k.asked = true
	k.devices, k.err = r.Kubelet.Devices(bounded)
	if k.err == nil || !errors.Is(bounded.Err(), context.DeadlineExceeded) {
		k.silent = 0
		return k.devices, k.err
	}
	k.silent = min(max(2*k.silent, silentFirst), silentLatest)
	k.until = r.steady().Add(k.silent)
	return k.devices, k.err
}

// readKubelet asks the kubelet which pod has which device, as long as a device drains.
// At other times nothing depends on the answer.
func (r *Reconciler) readKubelet(ctx context.Context, f *inventory.Sources) []problem.Finding {
	if r.Kubelet == nil {
		return nil
	}
	f.Kubelet = &inventory.Fact[inventory.Kubelet]{}
	if !slices.ContainsFunc(r.checkpoint.Devices, func(d nodestate.CheckpointDevice) bool { return d.Phase == nodestate.PhaseDraining }) {
		return nil
	}
	devices, err := r.kubeletDevices(ctx)
	if err != nil {
		return []problem.Finding{problem.New(reason.KubeletUnreadable, "the kubelet's podresources socket cannot be asked, so removed devices count as in use; check --podresources-socket", err)}
	}
	*f.Kubelet = inventory.Known(devices)
	return nil
}
