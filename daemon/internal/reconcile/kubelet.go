package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	kubeletTimeout = time.Second // kubeletTimeout bounds the question to the kubelet, which is on this machine
	// silentFirst and silentLatest bound the waits after a kubelet has not answered in time; they double.
	silentFirst  = 2 * time.Second
	silentLatest = 15 * time.Second
)

// Kubelet is the kubelet of this node; after an error nothing is known.
type Kubelet interface {
	Devices(ctx context.Context) (inventory.Kubelet, error)
}

// kubeletCache has the kubelet's answer to the only question of one Sync.
type kubeletCache struct {
	from    Kubelet // nil: there is none
	steady  func() time.Time
	asked   bool
	devices inventory.Kubelet
	err     error
	// silent is the last wait after a kubelet that did not answer in time; it is not asked before until.
	silent backoff.Backoff
	until  time.Time
}

// forget begins a new Sync. The error of a kubelet that hangs stays until it may be asked again.
func (k *kubeletCache) forget(now time.Time) {
	if left := k.until.Sub(now); left > 0 && left <= k.silent.Wait() { // else the clock was set back
		return
	}
	k.asked = false
}

// ask asks the kubelet, at most once in a Sync.
func (k *kubeletCache) ask(ctx context.Context) (inventory.Kubelet, error) {
	if k.asked {
		return k.devices, k.err
	}
	bounded, cancel := context.WithTimeout(ctx, kubeletTimeout)
	defer cancel()
	k.asked = true
	k.devices, k.err = k.from.Devices(bounded)
	if k.err == nil || !errors.Is(bounded.Err(), context.DeadlineExceeded) {
		k.silent.Reset()
		return k.devices, k.err
	}
	k.silent.First, k.silent.Cap = silentFirst, silentLatest
	k.until = k.steady().Add(k.silent.Failed())
	return k.devices, k.err
}

// read asks which pod has which device while one of the devices drains. At other times nothing depends on the answer.
func (k *kubeletCache) read(ctx context.Context, f *inventory.Sources) []problem.Finding {
	if k.from == nil {
		return nil
	}
	f.Kubelet = &inventory.Fact[inventory.Kubelet]{}
	drains := slices.ContainsFunc(f.Checkpoint.Devices, func(d nodestate.CheckpointDevice) bool { return d.Phase == nodestate.PhaseDraining })
	if !drains && !slices.ContainsFunc(f.Entries, func(e inventory.Entry) bool { return e.Released && !f.Freed[e.ENI.ID] }) {
		return nil
	}
	devices, err := k.ask(ctx)
	if errors.Is(err, inventory.ErrNoPods) {
		return []problem.Finding{problem.New(reason.KubeletUnreadable,
			"the kubelet lists no pod, as it does until it knows its pods after a start, so removed devices count as in use; wait a minute", err)}
	}
	if err != nil {
		return []problem.Finding{problem.New(reason.KubeletUnreadable,
			"the kubelet's podresources socket cannot be asked, so removed devices count as in use; check --podresources-socket", err)}
	}
	*f.Kubelet = inventory.Known(devices)
	return nil
}
