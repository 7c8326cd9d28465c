package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const (
	// NodeName is this node's.
	NodeName = "node1"
	// NodeENIDir is the folder of manifests that the daemon reads.
	NodeENIDir = "/etc/multi-eni/nodeenis"
	// DPConfigPath is the SR-IOV device plugin's config.
	DPConfigPath = "/etc/pcidp/config.json"

	daemonProgram = "/usr/local/bin/multi-enid"
	daemonLog     = "/run/multi-enid.log"
	stopTime      = 10 * time.Second
	// startTime bounds its start, until it handles SIGTERM or is ready, under emulation.
	startTime = time.Minute
)

// DaemonOptions are the daemon's start options. The zero value has no metadata service, and so no ENI.
type DaemonOptions struct {
	// IMDS is the metadata service's URL, from fakeimds.Start.
	IMDS string
	// NodeENIs is the folder of manifests; "" is NodeENIDir.
	NodeENIs string
	// Flags are added to the common ones of these tests.
	Flags []string
	// Env is added to the environment.
	Env []string
}

// Daemon is a running multi-enid. It is for one goroutine.
type Daemon struct {
	t    testing.TB
	opts DaemonOptions
	cmd  *exec.Cmd
	logs int // octets that those before have logged
}

// StartDaemon starts `multi-enid run` with the manifests of NodeENIDir until the test's end. A failure shows its log.
func StartDaemon(t testing.TB, opts DaemonOptions) *Daemon {
	t.Helper()
	if opts.NodeENIs == "" {
		opts.NodeENIs = NodeENIDir
	}
	for _, dir := range []string{opts.NodeENIs, filepath.Dir(DPConfigPath)} {
		Must(t, os.MkdirAll(dir, 0o755))
	}
	Must(t, os.RemoveAll(daemonLog))
	d := &Daemon{t: t, opts: opts}
	d.start()
	t.Cleanup(func() {
		if d.cmd != nil {
			d.Stop()
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.Log())
		}
	})
	return d
}

func (d *Daemon) start() {
	d.t.Helper()
	log, err := os.OpenFile(daemonLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	Must(d.t, err)
	defer log.Close()
	before, err := log.Stat()
	Must(d.t, err)
	args := append([]string{"run", "--node-name=" + NodeName, "--nodeeni-source=dir:" + d.opts.NodeENIs, "--log-level=debug"}, d.opts.Flags...)
	cmd := exec.Command(daemonProgram, args...)
	cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_SERVICE_ENDPOINT="+d.opts.IMDS)
	cmd.Env = append(cmd.Env, d.opts.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatalf("start the daemon: %v", err)
	}
	d.cmd, d.logs = cmd, int(before.Size())
}

// AwaitReady returns after the daemon's first Sync.
func (d *Daemon) AwaitReady() {
	d.t.Helper()
	Eventually(d.t, "the daemon is ready", startTime, func() bool {
		resp, err := (&http.Client{Timeout: startTime}).Get("http://127.0.0.1:9616/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// PID is the running daemon's.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Kill ends the daemon with SIGKILL, and returns when it has ended.
func (d *Daemon) Kill() {
	d.t.Helper()
	var killed *exec.ExitError
	if err := d.end(unix.SIGKILL); err != nil && !errors.As(err, &killed) {
		d.t.Errorf("kill the daemon: %v", err)
	}
}

// Stop ends the daemon with SIGTERM, which it must handle by exiting with 0. A new one first gets time to begin.
func (d *Daemon) Stop() {
	d.t.Helper()
	Eventually(d.t, "the daemon has started", startTime, func() bool { return strings.Contains(d.Log()[d.logs:], "multi-enid started") })
	if err := d.end(unix.SIGTERM); err != nil {
		d.t.Errorf("the daemon ends with %v", err)
	}
}

// Restart starts the daemon again with the same options, after Kill or Stop; it first stops a running one.
func (d *Daemon) Restart() {
	d.t.Helper()
	if d.cmd != nil {
		d.Stop()
	}
	d.start()
}

// Log is the daemon's log since StartDaemon.
func (d *Daemon) Log() string {
	data, err := os.ReadFile(daemonLog)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (d *Daemon) end(s unix.Signal) error {
	d.t.Helper()
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Fatalf("signal the daemon: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(stopTime):
		if err := cmd.Process.Kill(); err != nil {
			d.t.Errorf("kill the daemon: %v", err)
		}
		return fmt.Errorf("no end within %v of %v", stopTime, s)
	}
}

// WriteNodeENI declares or changes a NodeENI.
func WriteNodeENI(t testing.TB, name string, spec v1alpha1.NodeENISpec, attachments ...v1alpha1.ENIAttachment) {
	t.Helper()
	data, err := json.Marshal(v1alpha1.NodeENI{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.Kind},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       spec, Status: v1alpha1.NodeENIStatus{Attachments: attachments},
	})
	if err != nil {
		t.Fatalf("encode NodeENI %s: %v", name, err)
	}
	WriteManifest(t, name, data)
}

// WriteManifest is WriteNodeENI for a manifest as text.
func WriteManifest(t testing.TB, name string, manifest []byte) {
	t.Helper()
	err := os.MkdirAll(NodeENIDir, 0o755)
	if err == nil {
		err = atomicfile.Write(filepath.Join(NodeENIDir, name+".yaml"), manifest, 0o644, atomicfile.Volatile)
	}
	if err != nil {
		t.Fatalf("write NodeENI %s: %v", name, err)
	}
}

// RemoveNodeENI deletes a NodeENI's manifest.
func RemoveNodeENI(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(NodeENIDir, name+".yaml")); err != nil {
		t.Fatalf("remove NodeENI %s: %v", name, err)
	}
}

// Attached is the entry of status.attachments for an ENI of this node.
func Attached(e fakeimds.ENI) v1alpha1.ENIAttachment {
	return v1alpha1.ENIAttachment{
		NodeID: NodeName, InstanceID: "i-0123456789abcdef0", ENIID: e.ID, AttachmentID: "eni-attach-" + e.ID,
		SubnetID: e.SubnetID, SubnetCIDR: e.SubnetIPv4CIDR, DeviceIndex: e.DeviceIndex, Status: "attached",
	}
}

// Inventory is the daemon's inventory of this node; empty before the first one.
func Inventory(t testing.TB) nodestate.Inventory {
	t.Helper()
	inv, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read the inventory: %v", err)
	}
	return inv
}

// Row is the inventory's row of an ENI, or the zero Device.
func Row(t testing.TB, eni string) nodestate.Device {
	t.Helper()
	for _, d := range Inventory(t).Devices {
		if d.ENIID == device.ENIID(eni) {
			return d
		}
	}
	return nodestate.Device{}
}

// AwaitPhase waits until the ENI's row has the phase, and returns the row.
func AwaitPhase(t testing.TB, eni string, phase nodestate.Phase, within time.Duration) nodestate.Device {
	t.Helper()
	var row nodestate.Device
	began := time.Now()
	for row = Row(t, eni); row.Phase != phase; row = Row(t, eni) {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s %s; its row is %+v, the problems are %+v", within, eni, phase, row, Inventory(t).Problems)
		}
		time.Sleep(pollInterval)
	}
	return row
}

// AwaitRestored waits until the daemon has nothing more to restore on a device.
func AwaitRestored(t testing.TB, pci string, within time.Duration) {
	t.Helper()
	Eventually(t, pci+" has back what it had", within, func() bool {
		_, err := nodestate.AttachmentDir(nodestate.DefaultAttachmentsDir).LoadRestore(device.PCIAddress(pci))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// Pool is one entry of the device plugin's config.
type Pool struct {
	Resource  string   // prefix/name
	Drivers   []string // of all selectors
	Addresses []string // of all selectors
}

// DPConfig is the device plugin's config; nil before the first one. One on which the plugin would exit fails the test.
func DPConfig(t testing.TB) []Pool {
	t.Helper()
	data, err := os.ReadFile(DPConfigPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatalf("read the device plugin's config: %v", err)
	}
	pools, err := decodePools(data)
	if err != nil {
		t.Fatalf("the device plugin's config: %v\n%s", err, data)
	}
	return pools
}

type selector struct {
	Drivers   []string `json:"drivers"`
	Addresses []string `json:"pciAddresses"`
}

// decodePools reads a config whose selectors are objects or lists of them.
func decodePools(data []byte) ([]Pool, error) {
	var config struct {
		ResourceList []struct {
			Prefix    string          `json:"resourcePrefix"`
			Name      string          `json:"resourceName"`
			Selectors json.RawMessage `json:"selectors"`
		} `json:"resourceList"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, err
	}
	if len(config.ResourceList) == 0 {
		return nil, errors.New("no resource, on which the device plugin ends")
	}
	var pools []Pool
	for _, r := range config.ResourceList {
		var list []selector
		if err := json.Unmarshal(r.Selectors, &list); err != nil {
			list = make([]selector, 1)
			if err := json.Unmarshal(r.Selectors, &list[0]); err != nil {
				return nil, fmt.Errorf("selectors of %s: %w", r.Name, err)
			}
		}
		p := Pool{Resource: r.Prefix + "/" + r.Name}
		for _, s := range list {
			p.Drivers = append(p.Drivers, s.Drivers...)
			p.Addresses = append(p.Addresses, s.Addresses...)
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// Advertised says whether the device plugin's config lists a PCI function.
func Advertised(t testing.TB, pci string) bool {
	t.Helper()
	for _, p := range DPConfig(t) {
		for _, a := range p.Addresses {
			if a == pci {
				return true
			}
		}
	}
	return false
}
