//go:build bench

// Package bench measures cost and speed of the daemon with a real API server. A test fails only if it
// could not measure. Run it by `make bench`.
package bench

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

const (
	objects          = 100
	updatesPerMinute = 2000
	settleWithin     = 2 * time.Minute
)

var (
	span = flag.Duration("span", time.Minute, "how long each rest and each series of updates is measured")
	// 120 are enough for a 99th percentile below the maximum.
	rounds = flag.Int("rounds", 120, "how often each change is measured; a start is a quarter as often, once at least")
)

// starts is the number of restarts of each program, and of takeovers.
func starts() int { return max(1, *rounds/4) }

type line struct{ what, figure, target string }

var table []line

func note(what, target, figure string, args ...any) {
	table = append(table, line{what, fmt.Sprintf(figure, args...), target})
}

func TestMain(m *testing.M) {
	code := cluster.Main(m)
	if len(table) > 0 {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\nagainst a real kube-apiserver\tmeasured\ttarget")
		for _, l := range table {
			fmt.Fprintf(w, "%s\t%s\t%s\n", l.what, l.figure, l.target)
		}
		w.Flush() //nolint:errcheck,gosec // it is the terminal
	}
	os.Exit(code)
}

func TestRemovalToPlaceholder(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	e := n.Attach(t, 1)
	n.StartDaemon(t, "--restart=none", "--podresources-socket=")
	var took []time.Duration
	for range *rounds {
		c.CreateNodeENI(t, declared("dataplane", "intel.com/bench", []v1alpha1.ENIAttachment{n.Attachment(e)}))
		cluster.Eventually(t, "advertised", settleWithin, func() error { return configHas(n, "sriov_placeholder", false) })
		begin := time.Now()
		c.DeleteNodeENI(t, "dataplane")
		for configHas(n, "sriov_placeholder", true) != nil {
			if time.Since(begin) > settleWithin {
				t.Fatal("no placeholder")
			}
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	note("NodeENI deleted → placeholder on disk, p50", "", "%v", at(took, 0.50))
	note("NodeENI deleted → placeholder on disk, p99", "≤ 200 ms", "%v", at(took, 0.99))
}

func at(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1].Round(100 * time.Microsecond)
}

func configHas(n *cluster.Node, word string, want bool) error {
	content, err := n.Config()
	if err != nil {
		return err
	}
	if bytes.Contains(content, []byte(word)) != want {
		return fmt.Errorf("config is %s", content)
	}
	return nil
}

func declared(name, resource string, attachments []v1alpha1.ENIAttachment) v1alpha1.NodeENI {
	return v1alpha1.NodeENI{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.NodeENISpec{NodeSelector: map[string]string{}, SubnetID: "subnet-0a1b2c3d4e5f60001", DeviceIndex: 1, DPDKResourceName: resource},
		Status:     v1alpha1.NodeENIStatus{Attachments: attachments},
	}
}

func others(count int) []v1alpha1.ENIAttachment {
	all := make([]v1alpha1.ENIAttachment, count)
	for i := range all {
		all[i] = v1alpha1.ENIAttachment{
			NodeID: fmt.Sprintf("ip-10-1-%d-%d.eu-central-1.compute.internal", i/250, i%250), InstanceID: fmt.Sprintf("i-%017x", i),
			ENIID: fmt.Sprintf("eni-%017x", i+1<<20), AttachmentID: fmt.Sprintf("eni-attach-%017x", i), SubnetID: "subnet-0a1b2c3d4e5f60001",
			SubnetCIDR: "10.0.1.0/24", MTU: 9001, DeviceIndex: 1, Status: "attached", LastUpdated: metav1.NewTime(time.Unix(1_700_000_000, 0).UTC()),
		}
	}
	return all
}

func TestBusyCluster(t *testing.T) {
	for _, attachments := range []int{20, 500} {
		t.Run(fmt.Sprintf("attachments=%d", attachments), func(t *testing.T) {
			c := cluster.Start(t)
			n := c.NewNode(t, "node-1", nil)
			e := n.Attach(t, 1)
			for i := range objects {
				all := others(attachments)
				if i == 0 {
					all[attachments/2] = n.Attachment(e)
				}
				c.CreateNodeENI(t, declared(fmt.Sprintf("dataplane-%03d", i), "", all))
			}
			before := c.Proxy.Received()
			d := n.StartDaemon(t, "--podresources-socket=")
			cluster.Eventually(t, "ready", settleWithin, func() error { return ready(n, 1) })
			scale := fmt.Sprintf("%d NodeENIs × %d attachments", objects, attachments)
			note("bytes to start with, "+scale, "", "%.1f MB", mega(c.Proxy.Received()-before))
			idle(t, c, d, scale, attachments)
			updates(t, c, n, d, scale, attachments)
		})
	}
}

// ready is nil once this many devices are.
func ready(n *cluster.Node, devices int) error {
	inv, err := n.Inventory()
	if err != nil {
		return err
	}
	for _, d := range inv.Devices {
		if d.Phase == nodestate.PhaseReady {
			devices--
		}
	}
	if devices != 0 {
		return fmt.Errorf("devices %+v", inv.Devices)
	}
	return nil
}

func mega(bytes int64) float64              { return float64(bytes) / 1e6 }
func percent(cpu, of time.Duration) float64 { return 100 * float64(cpu) / float64(of) }

func idle(t *testing.T, c *cluster.Cluster, d *cluster.Daemon, scale string, attachments int) {
	wait(t, min(10*time.Second, *span))
	requests, cpu, begin := len(c.DaemonRequests(t)), d.CPU(t), time.Now()
	wait(t, *span)
	target := ""
	if attachments == 500 {
		target = "≤ 60 MB"
	}
	note("resident memory, "+scale, target, "%.1f MB", mega(d.RSS(t)))
	note("idle CPU, "+scale, "≤ 0.2 % of a core", "%.2f %%", percent(d.CPU(t)-cpu, time.Since(begin)))
	note("API requests in "+span.String()+" of rest, "+scale, "0", "%d", len(c.DaemonRequests(t))-requests)
}

func wait(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

func updates(t *testing.T, c *cluster.Cluster, n *cluster.Node, d *cluster.Daemon, scale string, attachments int) {
	config, err := os.Stat(n.ConfigPath())
	cluster.Must(t, err)
	inventory, err := n.Inventory()
	cluster.Must(t, err)
	cpu, received, begin := d.CPU(t), c.Proxy.Received(), time.Now()
	made := 0
	for ; time.Since(begin) < *span; made++ {
		if ahead := time.Duration(made)*time.Minute/updatesPerMinute - time.Since(begin); ahead > 0 {
			wait(t, ahead)
		}
		k := 1 + made%(objects-1)
		patch := fmt.Sprintf(`[{"op":"replace","path":"/status/attachments/%d/lastUpdated","value":%q}]`,
			made%attachments, time.Unix(1_700_000_000+int64(made), 0).UTC().Format(time.RFC3339))
		if _, err := c.NodeENIs().Patch(t.Context(), fmt.Sprintf("dataplane-%03d", k), types.JSONPatchType, []byte(patch), metav1.PatchOptions{},
			"status"); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	perMinute := float64(made) / took.Minutes()
	target := ""
	if attachments == 20 {
		target = "≤ 2 % of a core at 2,000 a minute"
	}
	note("CPU at status updates of other nodes, "+scale, target, "%.2f %% at %.0f a minute", percent(d.CPU(t)-cpu, took), perMinute)
	note("bytes received at those, "+scale, "", "%.1f KB an update", float64(c.Proxy.Received()-received)/float64(made)/1e3)
	after, err := os.Stat(n.ConfigPath())
	cluster.Must(t, err)
	now, err := n.Inventory()
	cluster.Must(t, err)
	written := "none"
	if !after.ModTime().Equal(config.ModTime()) || !now.UpdatedAt.Equal(inventory.UpdatedAt) {
		written = "some"
	}
	note("files written at those, "+scale, "none", "%s", written)
	note("resident memory after those, "+scale, "", "%.1f MB", mega(d.RSS(t)))
}
