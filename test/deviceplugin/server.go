package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// kubeletSocket is the kubelet's Registration service, in device-plugins.
const kubeletSocket = "kubelet.sock"

// server serves one pool. The embedded types refuse unknown calls.
type server struct {
	deviceapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer

	resource  string // prefix/name
	devices   []device.PCIAddress
	functions map[string]sysfs.PCIFunction // as they were at the start, by address
	keys      []string                     // see dpmodel.Verdict
	legacy    bool
	socket    string
	info      string // folder of device-info files
	sysfs     sysfs.FS
	grpc      *grpc.Server
	log       logrus.FieldLogger
	allocator
}

func newServer(p *pools, resource string, devices []device.PCIAddress, functions map[string]sysfs.PCIFunction, keys []string) *server {
	dir := p.Registry
	if p.legacy {
		dir = p.DevicePlugins
	}
	return &server{
		resource: resource, devices: devices, functions: functions, keys: keys, legacy: p.legacy, info: p.DeviceInfo, sysfs: p.Sysfs,
		socket: filepath.Join(dir, strings.ReplaceAll(resource, "/", "_")+".sock"), log: p.Log.WithField("resource", resource),
		allocator: allocator{uio: map[string]string{}},
	}
}

// start serves the pool anew. It first removes the files of an earlier run.
func (s *server) start(ctx context.Context) error {
	if err := s.clean(); err != nil {
		s.log.WithError(err).Warn("cannot clean up")
	}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		return &endError{ErrNoSocket, err.Error(), 0}
	}
	s.grpc = grpc.NewServer()
	if !s.legacy {
		registerapi.RegisterRegistrationServer(s.grpc, s)
	}
	deviceapi.RegisterDevicePluginServer(s.grpc, s)
	go func(g *grpc.Server) {
		if err := g.Serve(listener); err != nil {
			s.log.WithError(err).Error("serving ended")
		}
	}(s.grpc)
	s.log.WithField("devices", s.devices).Info("endpoint started serving")
	if s.legacy {
		return s.register(ctx)
	}
	return nil
}

// register calls the kubelet once.
func (s *server) register(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+filepath.Join(filepath.Dir(s.socket), kubeletSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		defer conn.Close()
		_, err = deviceapi.NewRegistrationClient(conn).Register(ctx, &deviceapi.RegisterRequest{
			Version: deviceapi.Version, Endpoint: filepath.Base(s.socket), ResourceName: s.resource,
		})
	}
	if err != nil {
		return &endError{ErrNoKubelet, err.Error(), 2}
	}
	s.log.Info("registered at the kubelet")
	return nil
}

// clean removes the socket, and the device-info files of all devices.
func (s *server) clean() error {
	err := removeFile(s.socket)
	for _, d := range s.devices {
		err = errors.Join(err, removeFile(infoPath(s.info, s.resource, d.String())))
	}
	return err
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// GetInfo implements the kubelet's plugin registration.
func (s *server) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.DevicePlugin, Name: s.resource, Endpoint: s.socket, SupportedVersions: []string{"v1alpha1", deviceapi.Version},
	}, nil
}

// NotifyRegistrationStatus stops serving a resource that the kubelet refuses; the plugin stays up.
func (s *server) NotifyRegistrationStatus(_ context.Context, r *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if r.GetPluginRegistered() {
		s.log.Info("registered at the kubelet")
	} else {
		s.log.WithField("error", r.GetError()).Error("the kubelet refuses to register it")
		go s.grpc.Stop() // it waits for this call
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// GetDevicePluginOptions implements the device-plugin API.
func (s *server) GetDevicePluginOptions(context.Context, *deviceapi.Empty) (*deviceapi.DevicePluginOptions, error) {
	return &deviceapi.DevicePluginOptions{}, nil
}

// GetPreferredAllocation implements the device-plugin API: the plugin prefers nothing, and its options say so.
func (s *server) GetPreferredAllocation(context.Context, *deviceapi.PreferredAllocationRequest) (*deviceapi.PreferredAllocationResponse, error) {
	return &deviceapi.PreferredAllocationResponse{}, nil
}

// PreStartContainer implements the device-plugin API: the plugin does nothing, and its options say so.
func (s *server) PreStartContainer(context.Context, *deviceapi.PreStartContainerRequest) (*deviceapi.PreStartContainerResponse, error) {
	return &deviceapi.PreStartContainerResponse{}, nil
}

// ListAndWatch implements the device-plugin API: the list never changes.
func (s *server) ListAndWatch(_ *deviceapi.Empty, stream grpc.ServerStreamingServer[deviceapi.ListAndWatchResponse]) error {
	var list deviceapi.ListAndWatchResponse
	for _, d := range s.devices {
		one := &deviceapi.Device{ID: d.String(), Health: deviceapi.Healthy}
		if node := s.functions[d.String()].NUMANode; node >= 0 && !slices.Contains(s.keys, "excludeTopology") {
			one.Topology = &deviceapi.TopologyInfo{Nodes: []*deviceapi.NUMANode{{ID: int64(node)}}}
		}
		list.Devices = append(list.Devices, one)
	}
	if err := stream.Send(&list); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}
