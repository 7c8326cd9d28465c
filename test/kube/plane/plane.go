// Package plane runs a real control plane for tests: etcd and kube-apiserver, built from their Go modules, as
// processes of the test binary.
//
// It needs a network namespace of its own, since the ports are fixed, with a default route: without an address to
// advertise kube-apiserver exits.
package plane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Address is where kube-apiserver listens, on every address of its netns.
const Address = "127.0.0.1:6443"

const (
	etcdURL = "http://127.0.0.1:2379"
	// startTimeout bounds each start. On a busy machine with two cores kube-apiserver takes ten seconds.
	startTimeout = 2 * time.Minute
	adminGroup   = "system:masters"
)

// Options configure a control plane.
type Options struct {
	// Dir is the folder of keys, data and logs.
	Dir string
	// Bin is the folder of the programs.
	Bin string
	// Addresses of the API server besides the loopback one, for its certificate. It advertises the first.
	Addresses []net.IP
	// ServiceAccounts turns on the admission plugin, which rejects pods of namespaces without an account.
	ServiceAccounts bool
}

// Plane is a running control plane. Its methods are for one goroutine.
type Plane struct {
	o         Options
	authority *authority
	etcd, api *Process
	admin     *rest.Config
	probe     kubernetes.Interface
}

// Start runs etcd and kube-apiserver and returns when the API is ready.
func Start(ctx context.Context, o Options) (_ *Plane, err error) {
	p := &Plane{o: o}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	if err := p.writeKeys(); err != nil {
		return nil, fmt.Errorf("make keys: %w", err)
	}
	if err := p.startEtcd(ctx); err != nil {
		return nil, err
	}
	return p, p.StartAPIServer(ctx)
}

// Stop kills everything. Nothing is kept.
func (p *Plane) Stop() {
	p.api.Kill()
	p.etcd.Kill()
}

// Log returns the path of a program's log.
func (p *Plane) Log(name string) string { return filepath.Join(p.o.Dir, "log", name+".log") }

// Key returns the path of a key or certificate of Start: ca.crt, apiserver.crt, apiserver.key, service-account.key.
func (p *Plane) Key(name string) string { return filepath.Join(p.o.Dir, "keys", name) }

// CA returns the PEM-encoded certificate that has signed the API server's.
func (p *Plane) CA() []byte { return p.authority.pem }

// Admin returns the configuration of a client with all rights.
func (p *Plane) Admin() *rest.Config { return rest.CopyConfig(p.admin) }

func (p *Plane) writeKeys() (err error) {
	if p.authority, err = newAuthority(); err != nil {
		return err
	}
	server, err := p.authority.server(append([]net.IP{net.IPv4(127, 0, 0, 1)}, p.o.Addresses...)...)
	if err != nil {
		return err
	}
	account, err := signingKey()
	if err != nil {
		return err
	}
	if p.admin, err = p.config("test-admin", adminGroup); err != nil {
		return err
	}
	if p.probe, err = kubernetes.NewForConfig(p.admin); err != nil {
		return err
	}
	return writeFiles(filepath.Join(p.o.Dir, "keys"), map[string][]byte{
		"ca.crt": p.authority.pem, "apiserver.crt": server.cert, "apiserver.key": server.key,
		"service-account.key": account, "audit-policy.yaml": []byte(auditPolicy),
	})
}

func (p *Plane) startEtcd(ctx context.Context) (err error) {
	p.etcd, err = StartProcess(p.Log("etcd"), nil, filepath.Join(p.o.Bin, "etcd"),
		"--data-dir="+filepath.Join(p.o.Dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return p.etcd.ready(ctx, func(ctx context.Context) error {
		return etcdCall(ctx, http.MethodGet, "/health", nil, nil)
	})
}

// StartAPIServer runs kube-apiserver until it is ready. A restarted one has the same port, keys and data.
func (p *Plane) StartAPIServer(ctx context.Context) (err error) {
	argv := []string{
		filepath.Join(p.o.Bin, "kube-apiserver"),
		"--etcd-servers=" + etcdURL, "--secure-port=6443",
		"--cert-dir=" + filepath.Join(p.o.Dir, "keys"), "--client-ca-file=" + p.Key("ca.crt"),
		"--tls-cert-file=" + p.Key("apiserver.crt"), "--tls-private-key-file=" + p.Key("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.Key("service-account.key"),
		"--service-account-signing-key-file=" + p.Key("service-account.key"),
		"--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=Node,RBAC", "--allow-privileged",
		"--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file=" + p.Key("audit-policy.yaml"), "--audit-log-path=" + p.auditLog(),
	}
	if len(p.o.Addresses) > 0 {
		argv = append(argv, "--advertise-address="+p.o.Addresses[0].String())
	}
	if !p.o.ServiceAccounts {
		argv = append(argv, "--disable-admission-plugins=ServiceAccount")
	}
	if p.api, err = StartProcess(p.Log("kube-apiserver"), nil, argv...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return p.api.ready(ctx, func(ctx context.Context) error {
		answer, err := p.probe.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(answer)))
		}
		return nil
	})
}

// apiGrace is how long kube-apiserver may run after SIGTERM; it would wait for open watches much longer.
const apiGrace = 10 * time.Second

// StopAPIServer ends kube-apiserver as an upgrade does: with SIGTERM, and in the end with SIGKILL.
func (p *Plane) StopAPIServer() error {
	if err := p.api.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop kube-apiserver: %w", err)
	}
	select {
	case <-p.api.Exited():
	case <-time.After(apiGrace):
		p.api.Kill()
	}
	return nil
}

// KillAPIServer ends kube-apiserver as a crash does.
func (p *Plane) KillAPIServer() { p.api.Kill() }

// APIServerRuns says whether kube-apiserver is running.
func (p *Plane) APIServerRuns() bool {
	select {
	case <-p.api.Exited():
		return false
	default:
		return true
	}
}

// ReadAudit returns the API server's audit log from a byte offset on, and the offset of its end.
func (p *Plane) ReadAudit(offset int64) ([]Request, int64, error) {
	return readAudit(p.auditLog(), offset)
}

func (p *Plane) auditLog() string {
	dir := filepath.Join(p.o.Dir, "log")
	// A missing folder is reported by kube-apiserver.
	os.MkdirAll(dir, 0o755) //nolint:errcheck,gosec // see above
	return filepath.Join(dir, "audit.log")
}
