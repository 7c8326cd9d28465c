// Package deviceplugin is a stand-in for the SR-IOV network device plugin on a node with a real kubelet: it
// implements the kubelet's device-plugin API (v1beta1) and reads its config by the rules of test/dpmodel.
//
// It answers like the plugin, as measured in package answers, and follows the public facts of
// k8snetworkplumbingwg/sriov-network-device-plugin v3.7 and later (cmd/sriovdp, pkg/resources):
//
//   - It reads config and devices once, at the start. A change takes effect after a restart. Every device found
//     then is healthy for good, and its driver then decides the answers.
//   - It exits with 0 on an empty or unreadable resourceList and without a socket, with 2 on a refused list and on
//     a missing selector.
//   - Each pool with a device has a server of its own on <plugins_registry>/<prefix>_<name>.sock. The kubelet
//     watches that folder, also at its own start. Without the folder the sockets are in device-plugins, and the
//     plugin calls kubelet.sock there. It calls again when its socket is gone, and exits with 2 if nobody answers.
//   - A container gets PCIDEVICE_<PREFIX>_<NAME>=<address>,… and the same with _INFO, and the device nodes of
//     vfio-pci and igb_uio.
//   - Allocate writes the device-info files of its devices. The start of a pool's server and its end remove those of
//     all its devices; a kill leaves them.
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
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// Exits of Run.
var (
	// ErrNoConfig: the list is empty. The plugin exits with 0, and the kubelet restarts it ever more slowly.
	ErrNoConfig = errors.New("no resource configuration")
	// ErrRefused: the plugin exits on this config.
	ErrRefused = errors.New("config refused")
	// ErrCrashed: the plugin panics on this config.
	ErrCrashed = errors.New("crashed")
	// ErrNoSocket: there is no folder for a socket.
	ErrNoSocket = errors.New("cannot listen")
	// ErrNoKubelet: nobody answers at kubelet.sock.
	ErrNoKubelet = errors.New("cannot register")
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
	// Registry is the kubelet's plugins_registry. Where it is missing, DevicePlugins is used: its device-plugins.
	Registry, DevicePlugins string
	// Check is how often the sockets in DevicePlugins are looked for. The plugin does so every 5 s.
	Check time.Duration
	// DeviceInfo is the folder of device-info files.
	DeviceInfo string
	Log        logrus.FieldLogger
}

// Run reads the config and serves every pool until ctx ends, with a nil error then.
func Run(ctx context.Context, o Options) error {
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
	p, err := newPools(o, verdict)
	if err != nil {
		return err
	}
	if err := p.start(ctx); err != nil {
		p.kill()
		return err
	}
	o.Log.WithField("resources", len(p.servers)).Info("all servers started")
	if err := p.watch(ctx); err != nil {
		p.kill()
		return err
	}
	o.Log.Info("shutting down")
	return p.stop()
}

// pools are the servers of one run.
type pools struct {
	Options
	legacy  bool // without plugins_registry
	servers []*server
}

func newPools(o Options, v dpmodel.Verdict) (*pools, error) {
	p := &pools{Options: o}
	if _, err := os.Stat(o.Registry); err != nil {
		p.legacy = true
		o.Log.WithError(err).Warn("registering at kubelet.sock")
	}
	for _, resource := range slices.Sorted(maps.Keys(v.Resources)) {
		functions := map[string]sysfs.PCIFunction{}
		for _, a := range v.Resources[resource] {
			f, err := o.Sysfs.PCI(a)
			if err != nil {
				return nil, fmt.Errorf("discover devices: %w", err)
			}
			functions[a.String()] = f
		}
		p.servers = append(p.servers, newServer(p, resource, v.Resources[resource], functions, v.Keys[resource]))
	}
	return p, nil
}

func (p *pools) start(ctx context.Context) error {
	for _, s := range p.servers {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watch returns at the end of ctx, or with the fault that ends the plugin. A socket that is gone shows a new kubelet.
func (p *pools) watch(ctx context.Context) error {
	if !p.legacy {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(p.Check)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, s := range p.servers {
			if _, err := os.Lstat(s.socket); err == nil {
				continue
			}
			s.log.Warn("the socket is gone: most likely the kubelet has restarted")
			s.grpc.Stop()
			if err := s.start(ctx); err != nil {
				return err
			}
		}
	}
}

func (p *pools) stop() (err error) {
	for _, s := range p.servers {
		s.grpc.Stop()
		err = errors.Join(err, s.clean())
	}
	return err
}

// kill ends the servers and leaves the files, like the end of the process.
func (p *pools) kill() {
	for _, s := range p.servers {
		if s.grpc != nil {
			s.grpc.Stop()
		}
	}
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
