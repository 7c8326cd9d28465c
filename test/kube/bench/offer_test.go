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
	// resource is the only device's, or with a number one of many devices'.
	resource = "intel.com/bench"
	// many is a number of devices that have a resource each.
	many = 10
	// lookEvery is the time between two looks at the kubelet.
	lookEvery  = 250 * time.Microsecond
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

// devices counts the devices that pods can get.
func (k *kubelet) devices() (count int) {
	for _, devices := range k.Allocatable() {
		count += len(devices)
	}
	return count
}

// await returns the time until pods can get this many devices.
func (k *kubelet) await(t *testing.T, devices int) time.Duration {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(lookEvery) {
		got := k.devices()
		if got == devices {
			return time.Since(begin)
		}
		if time.Since(begin) > settleWithin {
			t.Fatalf("%d devices are allocatable, want %d", got, devices)
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
	for range *rounds {
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
	for range starts() {
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

// declareMany attaches ENIs, each with a resource of its own.
func declareMany(t *testing.T, c *cluster.Cluster, n *cluster.Node, count int) {
	t.Helper()
	for i := range count {
		c.CreateNodeENI(t, declared(fmt.Sprintf("dataplane-%d", i), fmt.Sprint(resource, i), []v1alpha1.ENIAttachment{n.Attachment(n.Attach(t, i+1))}))
	}
}

// TestTakeover measures how long the kubelet lacks a resource when the daemon takes the SR-IOV device plugin's place.
func TestTakeover(t *testing.T) {
	for _, count := range []int{1, many} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			c := cluster.Start(t)
			n := c.NewNode(t, "node-1", nil)
			declareMany(t, c, n, count)
			var gaps []time.Duration
			for range starts() {
				gaps = append(gaps, takeover(t, c, n, count))
			}
			slices.Sort(gaps)
			note(fmt.Sprintf("takeover, the longest gap of %d resources: median of %d", count, starts()), "", "%v", at(gaps, 0.50))
			note(fmt.Sprintf("takeover, the longest gap of %d resources: maximum", count), "≤ 20 ms", "%v", at(gaps, 1))
		})
	}
}

// takeover has a new daemon take over from a new device plugin, and returns the longest time that a resource had no device.
func takeover(t *testing.T, c *cluster.Cluster, n *cluster.Node, count int) time.Duration {
	t.Helper()
	c.SetNodeLabel(t, n.Name, offerLabel, "pcidp")
	cluster.Must(t, os.RemoveAll(filepath.Join(n.Dir, "state")))
	if err := os.Remove(n.ConfigPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	k := startKubelet(t)
	d := n.StartDaemon(t, k.flags("pcidp")...)
	cluster.Eventually(t, "all advertised", settleWithin, func() error { return configCounts(n, count) })
	plugin := startPlugin(t, n, k)
	k.await(t, count)
	gap := watchGaps(k, count)
	c.SetNodeLabel(t, n.Name, offerLabel, "deviceplugin")
	cluster.Eventually(t, "taken over", settleWithin, func() error { return configCounts(n, 0) })
	cluster.Must(t, plugin.Process.Signal(syscall.SIGTERM))
	cluster.Must(t, plugin.Wait())
	wait(t, time.Second)
	k.await(t, count)
	longest := gap()
	d.Kill9()
	k.stop()
	return longest
}

// configCounts is nil if the device plugin's config has this many resources of ours.
func configCounts(n *cluster.Node, want int) error {
	content, err := n.Config()
	if err != nil {
		return err
	}
	if got := strings.Count(string(content), `"bench`); got != want {
		return fmt.Errorf("%d of %d resources are in the config: %s", got, want, content)
	}
	return nil
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

// watchGaps looks at the kubelet until the returned function is called, which returns the longest time that a resource had no device.
func watchGaps(k *kubelet, count int) func() time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	longest := make(chan time.Duration)
	go func() {
		var worst time.Duration
		had := map[string]time.Time{}
		for ctx.Err() == nil {
			all, now := k.Allocatable(), time.Now()
			for i := range count {
				name := fmt.Sprint(resource, i)
				if len(all[name]) > 0 {
					had[name] = now
				} else {
					worst = max(worst, now.Sub(had[name]))
				}
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
			declareMany(t, c, n, many)
			k := startKubelet(t)
			d := n.StartDaemon(t, k.flags(mode)...)
			cluster.Eventually(t, "all ready", settleWithin, func() error { return ready(n, many) })
			idle(t, c, d, fmt.Sprintf("%d resources, %s", many, mode), 0)
		})
	}
}
