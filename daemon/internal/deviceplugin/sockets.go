package deviceplugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/filewatch"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Sockets is the Kubelet behind the sockets of a folder.
type Sockets struct {
	dir      string
	services *problem.Services
}

// NewSockets returns the kubelet of the folder, which need not exist yet. services learns whether it can be watched.
func NewSockets(dir string, services *problem.Services) *Sockets { return &Sockets{dir, services} }

// kubeletSocket is where the kubelet takes registrations.
const kubeletSocket = "kubelet.sock"

// SocketName is the name of a resource's socket. It has one length, since a path of a socket has no more than 107
// octets (unix(7)), and a resource name may have 317.
func SocketName(name device.ResourceName) string {
	sum := sha256.Sum256([]byte(name))
	return "multi-eni-" + hex.EncodeToString(sum[:8]) + ".sock"
}

// Identity implements Kubelet: each kubelet makes its socket anew.
func (s *Sockets) Identity() string {
	info, err := os.Stat(filepath.Join(s.dir, kubeletSocket))
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeSocket == 0 {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d.%09d", st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}

// Watch implements Kubelet.
func (s *Sockets) Watch(ctx context.Context, changed func()) {
	w, err := filewatch.New(s.services, "kubelet", s.dir)
	if err != nil {
		return // the path is absolute
	}
	changed() // since Identity was asked
	w.Run(ctx, changed)
}

// dialTime bounds a connection on this machine.
const dialTime = 2 * time.Second

// OtherDaemonError says that somebody serves a resource's socket.
type OtherDaemonError struct{ Socket string }

func (e *OtherDaemonError) Error() string {
	return fmt.Sprintf("another process answers at %s; two daemons run on this node, so stop one", e.Socket)
}

// Listen implements Kubelet. A socket that nobody answers is left over, and replaced.
func (s *Sockets) Listen(name device.ResourceName, server deviceapi.DevicePluginServer) (stop func(), err error) {
	path := filepath.Join(s.dir, SocketName(name))
	if conn, err := net.DialTimeout("unix", path, dialTime); err == nil {
		_ = conn.Close()
		return nil, &OtherDaemonError{path}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace socket of %s: %w", name, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	l.SetUnlinkOnClose(false) // by then another may have the name
	own, statErr := os.Lstat(path)
	g := grpc.NewServer()
	deviceapi.RegisterDevicePluginServer(g, server)
	go g.Serve(l) //nolint:errcheck // it ends with stop
	return func() {
		g.Stop()
		if now, err := os.Lstat(path); err == nil && statErr == nil && os.SameFile(own, now) {
			_ = os.Remove(path) // the next start replaces it, too
		}
	}, nil
}

// Register implements Kubelet.
func (s *Sockets) Register(ctx context.Context, name device.ResourceName) error {
	socket := filepath.Join(s.dir, kubeletSocket)
	conn, err := grpc.NewClient("passthrough:///kubelet", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return fmt.Errorf("connect to the kubelet at %s: %w", socket, err)
	}
	defer func() { _ = conn.Close() }()
	_, err = deviceapi.NewRegistrationClient(conn).Register(ctx, &deviceapi.RegisterRequest{
		Version: deviceapi.Version, Endpoint: SocketName(name), ResourceName: name.String(),
		Options: &deviceapi.DevicePluginOptions{GetPreferredAllocationAvailable: true},
	})
	if err != nil {
		return fmt.Errorf("register %s with the kubelet at %s: %w", name, socket, err)
	}
	return nil
}
