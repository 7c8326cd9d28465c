//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	// resource is the only device's.
	resource = "intel.com/bench"
	// starts is the number of restarts of each program, and of takeovers.
	starts = 30
	// lookEvery is the time between two looks at the kubelet.
	lookEvery  = 100 * time.Microsecond
	offerLabel = "networking.k8s.aws/offer"
)

// kubelet is test/kubeletmodel on the sockets of a folder.
type kubelet struct {
	*kubeletmodel.Kubelet
	dir     string
	node    *kubeletmodel.Node
	servers *kubeletmodel.Servers
}

func startKubelet(t *testing.T) *kubelet {
	t.Helper()
	dir, err := os.MkdirTemp("", "k") // short enough for sockets
	cluster.Must(t, err)
	k := &kubelet{dir: dir, node: kubeletmodel.NewNode()}
	k.node.AddPod(kubeletmodel.Pod{UID: "agent"})
	for _, d := range []string{k.sockets(), filepath.Join(dir, "pod-resources")} {
		cluster.Must(t, os.Mkdir(d, 0o755))
	}
	t.Cleanup(func() {
		k.stop()
		cluster.Must(t, os.RemoveAll(dir))
	})
	k.start(t)
	return k
}

func (k *kubelet) sockets() string { return filepath.Join(k.dir, "device-plugins") }

func (k *kubelet) start(t *testing.T) {
	t.Helper()
	cluster.Must(t, kubeletmodel.RemoveSockets(k.sockets()))
	k.Kubelet = kubeletmodel.Start(kubeletmodel.Options{Dial: kubeletmodel.DialUnix, Node: k.node, Folder: k.sockets()})
	var err error
	k.servers, err = k.Serve(k.sockets(), filepath.Join(k.dir, "pod-resources", "kubelet.sock"))
	cluster.Must(t, err)
}

func (k *kubelet) stop() {
	k.Kill()
	k.servers.Stop()
}

// await returns the time until pods can get the device, or none.
func (k *kubelet) await(t *testing.T, devices int) time.Duration {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(lookEvery) {
		if len(k.Allocatable()[resource]) == devices {
			return time.Since(begin)
		}
		if time.Since(begin) > settleWithin {
			t.Fatalf("%d devices of %s are allocatable, want %d", len(k.Allocatable()[resource]), resource, devices)
		}
	}
}

func (k *kubelet) flags(mode string) []string {
	return []string{"--restart=none", "--offer=" + mode, "--kubelet-dir=" + k.dir, "--device-info-dir=" + filepath.Join(k.dir, "devinfo")}
}

func noteTimes(what, target string, took []time.Duration) {
	slices.Sort(took)
	note(what+", p50", "", "%v", at(took, 0.50))
	note(what+", p99", target, "%v", at(took, 0.99))
}

// TestOffered measures how soon the kubelet has the news in mode deviceplugin.
func TestOffered(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	nodeENI := declared("dataplane", resource, []v1alpha1.ENIAttachment{n.Attachment(n.Attach(t, 1))})
	k := startKubelet(t)
	d := n.StartDaemon(t, k.flags("deviceplugin")...)
	var added, removed, daemon, restarted []time.Duration
	for range removals {
		c.CreateNodeENI(t, nodeENI)
		added = append(added, k.await(t, 1))
		wait(t, 200*time.Millisecond) // no Sync is under way
		begin := time.Now()
		c.DeleteNodeENI(t, nodeENI.Name)
		k.await(t, 0)
		removed = append(removed, time.Since(begin))
	}
	c.CreateNodeENI(t, nodeENI)
	k.await(t, 1)
	for range starts {
		wait(t, 200*time.Millisecond)
		d.Kill9()
		k.await(t, 0)
		d.Start(t)
		daemon = append(daemon, k.await(t, 1))
		wait(t, time.Second)
		k.stop()
		wait(t, 200*time.Millisecond)
		k.start(t)
		restarted = append(restarted, k.await(t, 1))
	}
	noteTimes("offer: NodeENI created → the kubelet allocates", "", added)
	noteTimes("offer: NodeENI deleted → the kubelet no longer allocates", "≤ 50 ms", removed)
	noteTimes("offer: the daemon's start → the kubelet allocates again", "≤ 300 ms", daemon)
	noteTimes("offer: the kubelet's socket → it allocates again", "≤ 100 ms", restarted)
}

// TestTakeover measures how long the kubelet has no device when the daemon takes the SR-IOV device plugin's place.
func TestTakeover(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	c.CreateNodeENI(t, declared("dataplane", resource, []v1alpha1.ENIAttachment{n.Attachment(n.Attach(t, 1))}))
	var gaps []time.Duration
	for range starts {
		c.SetNodeLabel(t, n.Name, offerLabel, "pcidp")
		cluster.Must(t, os.RemoveAll(filepath.Join(n.Dir, "state")))
		if err := os.Remove(n.ConfigPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		k := startKubelet(t)
		d := n.StartDaemon(t, k.flags("pcidp")...)
		cluster.Eventually(t, "advertised", settleWithin, func() error { return configHas(n, "0000:00:06.0", true) })
		plugin := startPlugin(t, n, k)
		k.await(t, 1)
		gap := watchGaps(k)
		c.SetNodeLabel(t, n.Name, offerLabel, "deviceplugin")
		cluster.Eventually(t, "taken over", settleWithin, func() error { return configHas(n, "0000:00:06.0", false) })
		cluster.Must(t, plugin.Process.Signal(syscall.SIGTERM))
		cluster.Must(t, plugin.Wait())
		wait(t, time.Second)
		k.await(t, 1)
		gaps = append(gaps, gap())
		d.Kill9()
		k.stop()
	}
	slices.Sort(gaps)
	note("takeover: the kubelet has no device, median", "", "%v", at(gaps, 0.50))
	note(fmt.Sprintf("takeover: the kubelet has no device, the longest of %d", starts), "≤ 20 ms", "%v", at(gaps, 1))
}

// startPlugin starts the stand-in for the SR-IOV device plugin, on a node without plugins_registry.
func startPlugin(t *testing.T, n *cluster.Node, k *kubelet) *exec.Cmd {
	t.Helper()
	bin, err := nstest.Binary("kube/sriovdp")
	cluster.Must(t, err)
	cmd := exec.Command(bin, "--config-file="+n.ConfigPath(), "--plugins-registry="+filepath.Join(k.dir, "none"), "--device-plugins="+k.sockets(),
		"--device-info="+filepath.Join(k.dir, "devinfo"), "--sysfs="+n.Sysfs)
	cluster.Must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() }) //nolint:errcheck // it has ended by then
	return cmd
}

// watchGaps looks at the kubelet until the returned function is called, which returns the longest time without a device.
func watchGaps(k *kubelet) func() time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	longest := make(chan time.Duration)
	go func() {
		var worst time.Duration
		had := time.Now()
		for ctx.Err() == nil {
			there, now := len(k.Allocatable()[resource]) > 0, time.Now()
			if there {
				had = now
			} else {
				worst = max(worst, now.Sub(had))
			}
			time.Sleep(lookEvery)
		}
		longest <- worst
	}()
	return func() time.Duration {
		cancel()
		return <-longest
	}
}

// TestModes measures what each mode costs at rest.
func TestModes(t *testing.T) {
	for _, mode := range []string{"pcidp", "deviceplugin"} {
		t.Run(mode, func(t *testing.T) {
			c := cluster.Start(t)
			n := c.NewNode(t, "node-1", nil)
			for i := range 10 {
				c.CreateNodeENI(t, declared(fmt.Sprintf("dataplane-%d", i), strings.Replace(resource, "bench", fmt.Sprintf("bench%d", i), 1),
					[]v1alpha1.ENIAttachment{n.Attachment(n.Attach(t, i+1))}))
			}
			k := startKubelet(t)
			d := n.StartDaemon(t, k.flags(mode)...)
			cluster.Eventually(t, "all ready", settleWithin, func() error { return ready(n, 10) })
			idle(t, c, d, "10 resources, "+mode, 0)
		})
	}
}
