package reconcile

import (
	"context"
	"errors"
	"sync"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
)

type fakePlugin struct {
	mu           sync.Mutex
	wanted       []string
	last         pluginrestart.Wanted
	served       string // hash of the config that it was last restarted for
	looks        int
	prefixes     []string      // the -resource-prefix of its pods
	err, lookErr error         // Restart's answer, and Find's if it is ErrNoDevicePlugin; lookErr is Find's
	hold         chan struct{} // hold delays Restart until it is closed; nil for no delay
	restarted    func(pluginrestart.Wanted)
}

func (f *fakePlugin) report() pluginrestart.PluginReport {
	return pluginrestart.PluginReport{Pods: []string{"kube-system/dp-1"}, Prefixes: f.prefixes}
}

func (f *fakePlugin) Find(context.Context) (pluginrestart.PluginReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	if errors.Is(f.err, pluginrestart.ErrNoDevicePlugin) {
		return pluginrestart.PluginReport{}, f.err
	}
	if f.lookErr != nil {
		return pluginrestart.PluginReport{}, f.lookErr
	}
	return f.report(), nil
}

func (f *fakePlugin) Restart(ctx context.Context, w pluginrestart.Wanted) (pluginrestart.PluginReport, error) {
	f.mu.Lock()
	f.wanted, f.last = append(f.wanted, w.Hash), w
	hold, err := f.hold, f.err
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			r := f.report()
			r.Deleted = r.Pods
			return r, ctx.Err()
		}
	}
	if errors.Is(err, pluginrestart.ErrNoDevicePlugin) {
		return pluginrestart.PluginReport{}, err
	}
	if f.restarted != nil {
		f.restarted(w)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.report()
	if f.served != w.Hash {
		r.Deleted = r.Pods
	}
	if err == nil {
		f.served = w.Hash
	}
	return r, err
}

type fakeKubelet struct {
	devices inventory.Kubelet
	err     error
	asked   int
}

func (k *fakeKubelet) Devices(context.Context) (inventory.Kubelet, error) {
	k.asked++
	return k.devices, k.err
}

func (f *fakePlugin) answers() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hold == nil
}
