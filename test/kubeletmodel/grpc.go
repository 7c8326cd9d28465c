package kubeletmodel

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// RemoveSockets removes all sockets in a folder, as a kubelet does with its device-plugins folder when it starts.
func RemoveSockets(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 {
			errs = append(errs, os.Remove(filepath.Join(folder, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// DialUnix is a Dial for plugins on unix sockets.
func DialUnix(ctx context.Context, socket string) (Conn, error) {
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, err
	}
	conn.Connect()
	for state := conn.GetState(); state.String() != "READY"; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			_ = conn.Close()
			return nil, ctx.Err()
		}
	}
	return unixConn{DevicePluginClient: deviceapi.NewDevicePluginClient(conn), conn: conn}, nil
}

type unixConn struct {
	deviceapi.DevicePluginClient

	conn *grpc.ClientConn
}

func (c unixConn) Close() error { return c.conn.Close() }

// GetInfo is of Info.
func (c unixConn) GetInfo(ctx context.Context) (*registerapi.PluginInfo, error) {
	return registerapi.NewRegistrationClient(c.conn).GetInfo(ctx, &registerapi.InfoRequest{})
}

// NotifyRegistrationStatus is of Info.
func (c unixConn) NotifyRegistrationStatus(ctx context.Context, s *registerapi.RegistrationStatus) error {
	_, err := registerapi.NewRegistrationClient(c.conn).NotifyRegistrationStatus(ctx, s)
	return err
}

// Servers are the gRPC servers of a kubelet.
type Servers struct{ servers []*grpc.Server }

// Serve serves the Registration service at kubelet.sock in folder, and podresources at a path; "" for none. Both sockets are made anew.
func (k *Kubelet) Serve(folder, podresources string) (*Servers, error) {
	s := &Servers{}
	registration := grpc.NewServer()
	deviceapi.RegisterRegistrationServer(registration, &registrationServer{k: k})
	if err := s.listen(registration, filepath.Join(folder, "kubelet.sock")); err != nil {
		return nil, err
	}
	if podresources == "" {
		return s, nil
	}
	lister := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(lister, &listServer{k: k})
	if err := s.listen(lister, podresources); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Servers) listen(server *grpc.Server, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // a killed kubelet leaves its sockets
	s.servers = append(s.servers, server)
	go func() { _ = server.Serve(l) }()
	return nil
}

// Stop ends the servers as a kill does: their sockets stay.
func (s *Servers) Stop() {
	for _, server := range s.servers {
		server.Stop()
	}
}

type registrationServer struct {
	deviceapi.UnimplementedRegistrationServer

	k *Kubelet
}

func (s *registrationServer) Register(ctx context.Context, r *deviceapi.RegisterRequest) (*deviceapi.Empty, error) {
	if err := s.k.Register(ctx, r); err != nil {
		return nil, err
	}
	return &deviceapi.Empty{}, nil
}

type listServer struct {
	podresourcesapi.UnimplementedPodResourcesListerServer

	k *Kubelet
}

func (s *listServer) GetAllocatableResources(
	context.Context, *podresourcesapi.AllocatableResourcesRequest,
) (*podresourcesapi.AllocatableResourcesResponse, error) {
	var out podresourcesapi.AllocatableResourcesResponse
	out.Devices = containerDevices(s.k.Allocatable())
	return &out, nil
}

func (s *listServer) List(context.Context, *podresourcesapi.ListPodResourcesRequest) (*podresourcesapi.ListPodResourcesResponse, error) {
	held, pods := s.k.List()
	byPod := map[string]*podresourcesapi.PodResources{}
	var out podresourcesapi.ListPodResourcesResponse
	for _, uid := range pods {
		byPod[uid] = &podresourcesapi.PodResources{Name: uid, Namespace: "default"}
		out.PodResources = append(out.PodResources, byPod[uid])
	}
	for h, devices := range held {
		byPod[h.Pod].Containers = append(byPod[h.Pod].Containers, &podresourcesapi.ContainerResources{Name: h.Container, Devices: containerDevices(devices)})
	}
	return &out, nil
}

func containerDevices(byResource map[string][]string) []*podresourcesapi.ContainerDevices {
	var out []*podresourcesapi.ContainerDevices
	for _, resource := range sortedKeys(byResource) {
		for _, id := range byResource[resource] {
			out = append(out, &podresourcesapi.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
		}
	}
	return out
}
