package deviceplugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/filewatch"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Sockets is the Kubelet behind the sockets of a folder.
type Sockets struct {
	dir      string
	services *problem.Services

	mu     sync.Mutex
	served map[device.ResourceName]*served
}

// served is a resource that is listened for. Connections outlive the socket by which they came.
type served struct {
	server   *grpc.Server
	listener *net.UnixListener // of the socket that was registered last; nil before
}

// NewSockets returns the kubelet of the folder, which need not exist yet. services learns whether it can be watched.
func NewSockets(dir string, services *problem.Services) *Sockets {
	return &Sockets{dir: dir, services: services, served: map[device.ResourceName]*served{}}
}

// kubeletSocket is where the kubelet takes registrations.
const kubeletSocket = "kubelet.sock"

// SocketPattern matches the names of a resource's sockets (filepath.Match). They have one length, since a path of a
// socket has no more than 107 octets (unix(7)), and a resource name may have 317.
func SocketPattern(name device.ResourceName) string { return socketName(name, "*") }

func socketName(name device.ResourceName, which string) string {
	sum := sha256.Sum256([]byte(name))
	return "multi-eni-" + hex.EncodeToString(sum[:8]) + "-" + which + ".sock"
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

// Listen implements Kubelet. Sockets that nobody answers are left over, and removed.
func (s *Sockets) Listen(name device.ResourceName, server deviceapi.DevicePluginServer) (stop func(), err error) {
	left, err := filepath.Glob(filepath.Join(s.dir, SocketPattern(name)))
	if err != nil {
		return nil, fmt.Errorf("look for sockets of %s: %w", name, err)
	}
	for _, path := range left {
		if conn, err := net.DialTimeout("unix", path, dialTime); err == nil {
			_ = conn.Close()
			return nil, &OtherDaemonError{path}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove old socket of %s: %w", name, err)
		}
	}
	own := &served{server: grpc.NewServer()}
	deviceapi.RegisterDevicePluginServer(own.server, server)
	s.mu.Lock()
	s.served[name] = own
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		if s.served[name] == own {
			delete(s.served, name)
		}
		last := own.listener
		own.listener = nil
		s.mu.Unlock()
		own.server.Stop()
		remove(last)
	}, nil
}

// remove removes the socket of a listener, which may be nil. Nobody else has its name.
func remove(l *net.UnixListener) {
	if l != nil {
		_ = l.Close()
		_ = os.Remove(l.Addr().String()) // the next start removes it, too
	}
}

// Register implements Kubelet. Each registration has a socket of its own: from v1.37 on, a kubelet refuses a socket for
// good that is registered while it is connected to it (PluginConnected in pkg/kubelet/cm/devicemanager).
func (s *Sockets) Register(ctx context.Context, name device.ResourceName) error {
	l, err := s.listen(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	own := s.served[name]
	s.mu.Unlock()
	if own == nil {
		remove(l)
		return fmt.Errorf("register %s: it is not served any more", name)
	}
	go own.server.Serve(l) //nolint:errcheck // it ends with the listener
	if err := s.register(ctx, name, l); err != nil {
		remove(l)
		return err
	}
	s.mu.Lock()
	before := own.listener
	own.listener = l
	s.mu.Unlock()
	remove(before)
	return nil
}

// decoy is a device plugin that knows nothing of its options.
type decoy struct {
	deviceapi.UnimplementedDevicePluginServer
	asked atomic.Bool
}

// GetDevicePluginOptions implements the device-plugin API.
func (d *decoy) GetDevicePluginOptions(context.Context, *deviceapi.Empty) (*deviceapi.DevicePluginOptions, error) {
	d.asked.Store(true)
	return nil, status.Error(codes.Unavailable, "this registration only has the kubelet forget which connection is the current one")
}

// Forget implements Kubelet, by a registration that fails.
func (s *Sockets) Forget(ctx context.Context, name device.ResourceName) error {
	l, err := s.listen(name)
	if err != nil {
		return err
	}
	defer remove(l)
	var d decoy
	server := grpc.NewServer()
	deviceapi.RegisterDevicePluginServer(server, &d)
	go server.Serve(l) //nolint:errcheck // it ends with Stop
	defer server.Stop()
	err = s.register(ctx, name, l)
	switch {
	case d.asked.Load():
		return nil
	case err == nil:
		err = errors.New("the kubelet does not ask a plugin for its options")
	}
	return err
}

// listen makes a socket of a name that was never used.
func (s *Sockets) listen(name device.ResourceName) (*net.UnixListener, error) {
	path := filepath.Join(s.dir, socketName(name, fmt.Sprintf("%08x", rand.Uint32()))) //nolint:gosec // it need not be a secret
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	l.SetUnlinkOnClose(false) // remove does it
	return l, nil
}

func (s *Sockets) register(ctx context.Context, name device.ResourceName, l *net.UnixListener) error {
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
		Version: deviceapi.Version, Endpoint: filepath.Base(l.Addr().String()), ResourceName: name.String(),
		Options: &deviceapi.DevicePluginOptions{GetPreferredAllocationAvailable: true},
	})
	if err != nil {
		return fmt.Errorf("register %s with the kubelet at %s: %w", name, socket, err)
	}
	return nil
}
