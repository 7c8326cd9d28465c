package deviceplugin

import (
	"context"
	"encoding/json"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// server serves one pool. The embedded types refuse unknown calls.
type server struct {
	deviceapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer

	resource string // prefix/name
	devices  []device.PCIAddress
	drivers  map[string]string // by address
	socket   string
	grpc     *grpc.Server
	log      logrus.FieldLogger
}

func serve(o Options, resource string, devices []device.PCIAddress, drivers map[string]string) (*server, error) {
	s := &server{
		resource: resource, devices: devices, drivers: drivers, grpc: grpc.NewServer(), log: o.Log.WithField("resource", resource),
		socket: filepath.Join(o.Registry, strings.ReplaceAll(resource, "/", "_")+".sock"),
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		return nil, err
	}
	registerapi.RegisterRegistrationServer(s.grpc, s)
	deviceapi.RegisterDevicePluginServer(s.grpc, s)
	go func() {
		if err := s.grpc.Serve(listener); err != nil {
			s.log.WithError(err).Error("serving ended")
		}
	}()
	s.log.WithField("devices", devices).Info("endpoint started serving")
	return s, nil
}

func (s *server) stop() { s.grpc.Stop() }

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

// ListAndWatch implements the device-plugin API: the list never changes.
func (s *server) ListAndWatch(_ *deviceapi.Empty, stream grpc.ServerStreamingServer[deviceapi.ListAndWatchResponse]) error {
	var list deviceapi.ListAndWatchResponse
	for _, d := range s.devices {
		list.Devices = append(list.Devices, &deviceapi.Device{ID: d.String(), Health: deviceapi.Healthy})
	}
	if err := stream.Send(&list); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Allocate implements the device-plugin API.
func (s *server) Allocate(_ context.Context, r *deviceapi.AllocateRequest) (*deviceapi.AllocateResponse, error) {
	var out deviceapi.AllocateResponse
	for _, c := range r.GetContainerRequests() {
		for _, id := range c.GetDevicesIds() {
			if !slices.Contains(s.devices, device.PCIAddress(id)) {
				return nil, status.Errorf(codes.InvalidArgument, "device %q is not one of %s's %q", id, s.resource, s.devices)
			}
			if (sysfs.PCIFunction{Driver: s.drivers[id]}).UserspaceDriver() {
				return nil, status.Errorf(codes.Unimplemented, "device %q is bound to %s: device files are not known here", id, s.drivers[id])
			}
		}
		envs, err := s.envs(c.GetDevicesIds())
		if err != nil {
			return nil, err
		}
		out.ContainerResponses = append(out.ContainerResponses, &deviceapi.ContainerAllocateResponse{Envs: envs})
	}
	s.log.WithField("response", out.String()).Info("allocated")
	return &out, nil
}

func (s *server) envs(ids []string) (map[string]string, error) {
	prefix, name, _ := strings.Cut(s.resource, "/")
	variable := strings.ToUpper(fmt.Sprintf("PCIDEVICE_%s_%s", strings.ReplaceAll(prefix, ".", "_"), name))
	info := map[string]map[string]map[string]string{}
	for _, id := range ids {
		info[id] = map[string]map[string]string{"generic": {"deviceID": id}}
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return map[string]string{variable: strings.Join(ids, ","), variable + "_INFO": string(b)}, nil
}
