// Package deviceplugin is a stand-in for the SR-IOV network device plugin on a node with a real kubelet: it
// implements the kubelet's device-plugin API (v1beta1) and reads its config by the rules of test/dpmodel.
//
// It behaves like the plugin where this project depends on it, from the public facts of
// k8snetworkplumbingwg/sriov-network-device-plugin v3.7 and later (cmd/sriovdp, pkg/resources):
//
//   - It reads config and devices once, at the start. A change takes effect after a restart. Every device found
//     then is healthy for good.
//   - It exits with 0 on an empty or unreadable resourceList and without a socket, with 2 on a refused list and on
//     a missing selector.
//   - Each pool with a device has a server of its own on <plugins_registry>/<prefix>_<name>.sock. The kubelet
//     watches that folder, also at its own start. Without the folder this stand-in fails; the plugin would call
//     kubelet.sock, as kubelets before 1.13 need.
//   - A container gets PCIDEVICE_<PREFIX>_<NAME>=<address>,… and the same with _INFO.
//   - It removes its sockets when it ends, and after a kill before its next start.
//
// It is stricter than the plugin in one thing: it refuses to allocate a device that it does not offer or cannot
// hand over.
package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// Exits of Run before anything was served.
var (
	// ErrNoConfig: the list is empty. The plugin exits with 0, and the kubelet restarts it ever more slowly.
	ErrNoConfig = errors.New("no resource configuration")
	// ErrRefused: the plugin exits on this config.
	ErrRefused = errors.New("config refused")
	// ErrCrashed: the plugin panics on this config.
	ErrCrashed = errors.New("crashed")
)

// Options configure a device plugin. Only Args may be empty.
type Options struct {
	// Config is the path of the config.
	Config string
	// Args are more arguments of the plugin, such as -resource-prefix=a.io.
	Args []string
	// Sysfs is the tree with the devices, and Routes the path of the routes; see Discover.
	Sysfs  sysfs.FS
	Routes string
	// Registry is the kubelet's folder of plugin sockets.
	Registry string
	Log      logrus.FieldLogger
}

// Run reads the config and serves every pool until ctx ends, with a nil error then.
func Run(ctx context.Context, o Options) error {
	if _, err := os.Stat(o.Registry); err != nil {
		return fmt.Errorf("find the kubelet's plugin registry: %w", err)
	}
	content, err := os.ReadFile(o.Config)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	devices, err := Discover(o.Sysfs, o.Routes)
	if err != nil {
		return fmt.Errorf("discover devices: %w", err)
	}
	verdict := dpmodel.Judge(content, devices, o.Args...)
	if err := ended(verdict); err != nil {
		return err
	}
	for _, i := range slices.Sorted(maps.Keys(verdict.Skipped)) {
		o.Log.WithFields(logrus.Fields{"entry": i, "reason": verdict.Skipped[i]}).Warn("skipping entry")
	}
	drivers := map[string]string{}
	for _, d := range devices {
		drivers[d.Address.String()] = d.Driver
	}
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, resource := range slices.Sorted(maps.Keys(verdict.Resources)) {
		s, err := serve(o, resource, verdict.Resources[resource], drivers)
		if err != nil {
			return fmt.Errorf("serve %s: %w", resource, err)
		}
		servers = append(servers, s)
	}
	o.Log.WithField("resources", len(servers)).Info("all servers started")
	<-ctx.Done()
	o.Log.Info("shutting down")
	return nil
}

// Status is the plugin's exit status after Run has returned err.
func Status(err error) int {
	var end *endError
	switch {
	case err == nil, errors.Is(err, ErrNoConfig):
		return 0
	case errors.As(err, &end):
		return end.status
	}
	return 1
}

type endError struct {
	kind   error
	reason string
	status int
}

func (e *endError) Error() string { return e.kind.Error() + ": " + e.reason }
func (e *endError) Unwrap() error { return e.kind }

func ended(v dpmodel.Verdict) error {
	switch {
	case v.Panic != "":
		return &endError{ErrCrashed, v.Panic, v.Status}
	case v.Exit == ErrNoConfig.Error():
		return ErrNoConfig
	case v.Exit != "":
		return &endError{ErrRefused, v.Exit, v.Status}
	}
	return nil
}
