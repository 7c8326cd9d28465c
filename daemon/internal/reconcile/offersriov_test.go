package reconcile

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
)

// sriovPlugin is the SR-IOV device plugin of an offerWorld, with the part of the daemon that restarts it. It registers by
// plugins_registry, and reads its config at its start.
type sriovPlugin struct {
	w         *offerWorld
	restarts  chan struct{} // full while the plugin restarts; a mutex would stop the simulated time
	mu        sync.Mutex
	installed bool
	read      string // the config that it has read
	started   time.Time
	listeners map[string]*kubeletmodel.Listener
}

func (s *sriovPlugin) start() {
	content, err := os.ReadFile(s.w.path("config.json"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.w.Error(err)
	}
	k := s.w.kubelet()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read, s.started, s.listeners = string(content), time.Now(), map[string]*kubeletmodel.Listener{}
	if len(content) == 0 {
		return
	}
	for name, offered := range dpmodel.Judge(content, s.w.machine()).Resources {
		var ids []string
		for _, addr := range offered {
			ids = append(ids, addr.String())
		}
		path := filepath.Join("registry", filepath.Base(name)+".sock")
		s.listeners[path] = s.w.sockets.Listen(path, kubeletmodel.NewPlugin(name, path, ids...))
		if k != nil {
			k.SocketAdded(path)
		}
	}
}

// install has the plugin run, or not.
func (s *sriovPlugin) install(run bool) {
	s.restarts <- struct{}{}
	defer func() { <-s.restarts }()
	s.mu.Lock()
	was := s.installed
	s.installed = run
	s.mu.Unlock()
	switch {
	case run && !was:
		s.start()
	case was && !run:
		s.stop()
	}
}

// stop ends the plugin: its connections end, and then its sockets are gone.
func (s *sriovPlugin) stop() {
	k := s.w.kubelet()
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, l := range s.listeners {
		l.Close()
		if k != nil {
			k.SocketRemoved(path)
		}
	}
	clear(s.listeners)
}

// appear shows a new kubelet the sockets.
func (s *sriovPlugin) appear(k *kubeletmodel.Kubelet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(s.listeners)) {
		k.SocketAdded(path)
	}
}

func (s *sriovPlugin) is() (installed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.installed
}

// Find implements pluginrestart.DevicePlugin.
func (s *sriovPlugin) Find(context.Context) (pluginrestart.PluginReport, error) {
	if !s.is() {
		return pluginrestart.PluginReport{}, pluginrestart.ErrNoDevicePlugin
	}
	return pluginrestart.PluginReport{Pods: []string{"kube-system/dp"}}, nil
}

var errUnverified = errors.New("the kubelet does not list the devices")

// Restart implements pluginrestart.DevicePlugin. A plugin that has read the config goes on.
func (s *sriovPlugin) Restart(ctx context.Context, want pluginrestart.Wanted) (pluginrestart.PluginReport, error) {
	s.restarts <- struct{}{}
	defer func() { <-s.restarts }()
	report, err := s.Find(ctx)
	if err != nil {
		return report, err
	}
	content, _ := os.ReadFile(want.Path)
	if !s.hasRead(string(content), want) {
		s.stop()
		report.Deleted = report.Pods
		if !sleep(context.WithoutCancel(ctx), 2*time.Second) {
			return report, ctx.Err()
		}
		s.start()
	}
	for range 150 {
		if s.listed(want) { //nolint:contextcheck // the model answers at once
			return report, nil
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return report, ctx.Err()
		}
	}
	return report, errUnverified
}

// hasRead says whether the run is known to have read the config, as the daemon can know it.
func (s *sriovPlugin) hasRead(content string, want pluginrestart.Wanted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read == content && (want.Precedes(s.started) || s.started.Before(want.Before))
}

// listed says whether the kubelet lists exactly the wanted devices.
func (s *sriovPlugin) listed(want pluginrestart.Wanted) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	got, err := s.w.Devices(ctx)
	if err != nil {
		return false
	}
	for name, devices := range want.Devices {
		have := slices.DeleteFunc(slices.Clone(got.Allocatable[name]), func(a device.PCIAddress) bool { return a == "0000:00:00.0" })
		if !slices.Equal(slices.Sorted(slices.Values(devices)), have) {
			return false
		}
	}
	return true
}
