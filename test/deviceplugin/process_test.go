package deviceplugin

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// asStandIn makes the test binary run Main with its arguments.
const asStandIn = "DEVICEPLUGIN_STAND_IN"

func TestMain(m *testing.M) {
	if os.Getenv(asStandIn) != "" {
		os.Exit(Main(os.Args[1:], os.Stdout))
	}
	os.Exit(m.Run())
}

// process is a running stand-in.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	out  *output
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func startProcess(t *testing.T, args []string) *process {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	p := &process{cmd: exec.Command(self, args...), done: make(chan struct{}), out: &output{}}
	p.cmd.Env = append(os.Environ(), asStandIn+"=1")
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its status is looked at
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the stand-in's log:\n%s", p.out)
		}
	})
	return p
}

func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) logged(line string) bool { return strings.Contains(p.out.String(), line) }
func (p *process) status() int             { return p.cmd.ProcessState.ExitCode() }

// signal sends a signal that ends the process, and waits for the end.
func (p *process) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // fails when it has ended
	<-p.done
}

// pool is a kubelet's connection to one pool.
type pool struct {
	t      *testing.T
	socket string
	conn   *grpc.ClientConn
	client deviceapi.DevicePluginClient
}

func (r *run) pool(socket string) *pool {
	r.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(r.T, err)
	r.Cleanup(func() { conn.Close() })
	return &pool{t: r.T, socket: socket, conn: conn, client: deviceapi.NewDevicePluginClient(conn)}
}

func (p *pool) info() (*registerapi.PluginInfo, error) {
	return registerapi.NewRegistrationClient(p.conn).GetInfo(p.t.Context(), &registerapi.InfoRequest{})
}

// oldKubelet takes registrations at kubelet.sock.
type oldKubelet struct {
	deviceapi.UnimplementedRegistrationServer
	server *grpc.Server
	mu     sync.Mutex
	seen   []*deviceapi.RegisterRequest
}

func startOldKubelet(t *testing.T, dir string) *oldKubelet {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, kubeletSocket))
	must(t, err)
	k := &oldKubelet{server: grpc.NewServer()}
	deviceapi.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(l) //nolint:errcheck // it ends with the test
	return k
}

func (k *oldKubelet) stop() { k.server.Stop() }

// Register implements the kubelet's API.
func (k *oldKubelet) Register(_ context.Context, r *deviceapi.RegisterRequest) (*deviceapi.Empty, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = append(k.seen, r)
	return &deviceapi.Empty{}, nil
}

func (k *oldKubelet) registered() []*deviceapi.RegisterRequest {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.seen)
}
