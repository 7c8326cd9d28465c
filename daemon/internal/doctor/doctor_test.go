package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestReports shows whole reports as people read them.
func TestReports(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(w *world)
		failed int
	}{
		"healthy": {func(*world) {}, 0},
		"fresh": {func(w *world) {
			for _, name := range []string{"run", "state", "records", "etc", "bin"} {
				w.must(os.RemoveAll(w.path(name)))
			}
			w.running(false, nil)
			w.plugin(pluginrestart.PluginReport{}, pluginrestart.ErrNoDevicePlugin)
			w.server.resources, w.server.denied, w.server.node = nil, []string{"list nodeenis", "watch nodeenis", "patch eninodestates/status", "patch events",
				"delete pods default"}, false
			w.want(nil, errors.New("list NodeENIs: forbidden"))
		}, 5},
		"folder": {func(w *world) {
			w.o.Source, w.o.Cluster, w.o.Kubelet, w.o.DevicePlugin = "dir:/etc/multi-eni/nodeenis", nil, nil, nil
			w.want(nil, nil)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.happen(w)
			golden(t, name, w.report())
			if got := Failed(Run(t.Context(), w.o)); got != tt.failed {
				t.Errorf("%d checks failed; want %d", got, tt.failed)
			}
		})
	}
}

// TestMetadataFaults: IMDS that does not answer, or that is another service's.
func TestMetadataFaults(t *testing.T) {
	find(t, map[string]fault{
		"no IMDS":        {func(w *world) { w.imds(nil, errors.New("timeout")) }, Fail, "instance metadata", []string{"hop-limit 2", "hostNetwork"}},
		"IMDS of others": {func(w *world) { w.imds(nil, nil) }, Fail, "instance metadata", []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT"}},
		"odd IMDS": {func(w *world) { w.imds(nil, &vpc.ValueError{Key: "mac", Value: "<html>", Err: errors.New("no MAC")}) },
			Fail, "instance metadata", []string{"<html>", "proxy"}},
		"odd value of one ENI": {func(w *world) {
			w.imds([]vpc.ENI{{ID: "eni-0a1b2c3d4e5f60001"},
				{Unreadable: &vpc.ValueError{Key: "network/interfaces/macs/x/subnet-id", Value: "<html>", Err: errors.New("no subnet")}}}, nil)
		}, Fail, "instance metadata", []string{"macs/x/subnet-id", "<html>", "proxy"}},
	})
}

// TestNodeFaults: the node's name, the kubelet, the device plugin and the daemon.
func TestNodeFaults(t *testing.T) {
	find(t, map[string]fault{
		"no node name": {func(w *world) { w.o.NodeName = "" }, Fail, "node name", []string{"NODE_NAME"}},
		"no kubelet": {func(w *world) {
			w.o.Kubelet = func(context.Context) (inventory.Kubelet, error) {
				return inventory.Kubelet{}, errors.New("no such socket")
			}
		}, Fail, "kubelet", []string{"--podresources-socket"}},
		"no device plugin": {func(w *world) {
			w.plugin(pluginrestart.PluginReport{}, fmt.Errorf("search: %w", pluginrestart.ErrNoDevicePlugin))
		}, Warn, "device plugin", []string{"kube-system, default", "--dp-selectors"}},
		"device plugin with a ConfigMap": {func(w *world) {
			w.plugin(pluginrestart.PluginReport{Pods: []string{"default/dp"},
				Problems: []nodestate.Problem{{Reason: "DevicePluginConfigMap", Message: "mount the folder"}}}, nil)
		}, Warn, "device plugin", []string{"DevicePluginConfigMap", "mount the folder"}},
		"device plugin not searchable": {func(w *world) { w.plugin(pluginrestart.PluginReport{}, errors.New("forbidden")) },
			Fail, "device plugin", []string{"forbidden"}},
		"daemon not running": {func(w *world) { w.running(false, nil) }, Warn, "daemon", []string{"not running"}},
		"daemon unknown":     {func(w *world) { w.running(false, errors.New("permission denied")) }, Warn, "daemon", []string{"permission denied"}},
	})
}

// TestNotAsked: a check that the flags leave out is OK, and the finding names the flag.
func TestNotAsked(t *testing.T) {
	w := newWorld(t)
	w.o.Kubelet, w.o.DevicePlugin = nil, nil
	w.says(kubelet, "ok kubelet: not asked, for want of a --podresources-socket")
	w.says(devicePlugin, "ok device plugin: not looked for, since others restart it (--restart=none)")
	w.says(routing, "ok source routing: not asked for (--source-routing)")
}

// TestMetadata: readable ENIs are counted beside unreadable ones.
func TestMetadata(t *testing.T) {
	w := newWorld(t)
	odd := &vpc.ValueError{Key: "network/interfaces/macs/x/subnet-id", Value: "<html>", Err: errors.New("no subnet")}
	w.imds([]vpc.ENI{{ID: "eni-0a1b2c3d4e5f60001"}, {Unreadable: odd}, {Unreadable: odd}}, nil)
	w.says(metadata, "FAIL instance metadata: ", "FAIL instance metadata: ", "ok instance metadata: token granted, ENIs readable: 1")
}

// TestServedEntries: a config that cannot be read says nothing about entries, and of many wrong entries the first five are named.
func TestServedEntries(t *testing.T) {
	w := newWorld(t)
	served := func(_ context.Context, o Options) []Finding { return servedEntries(o, []string{"intel.com"}) }
	w.write("etc/pcidp/config.json", "{", 0o644)
	w.says(served)
	w.o.PCIDPConfig = w.path("nowhere")
	w.says(served)
	w.o.PCIDPConfig = w.path("etc/pcidp/config.json")
	entry := `{"resourceName":"nic-1","selectors":{"drivers":["none"]}}`
	w.write("etc/pcidp/config.json", `{"resourceList":[`+strings.Repeat(entry+",", 9)+entry+`]}`, 0o644)
	if got := served(t.Context(), w.o); len(got) != 5 || got[0].Level != Warn || got[0].Remedy == "" {
		t.Errorf("findings %v", got)
	}
}

// TestFinding: a line has the level in four columns, and JSON no empty remedy.
func TestFinding(t *testing.T) {
	for _, tt := range []struct {
		f          Finding
		line, json string
	}{
		{Finding{OK, "x", "well", ""}, "ok    x: well", `{"level":"ok","check":"x","detail":"well"}`},
		{Finding{Warn, "x", "odd", "look"}, "warn  x: odd; look", `{"level":"warn","check":"x","detail":"odd","remedy":"look"}`},
		{Finding{Fail, "x", "bad", "mend"}, "FAIL  x: bad; mend", `{"level":"FAIL","check":"x","detail":"bad","remedy":"mend"}`},
	} {
		data, err := json.Marshal(tt.f)
		if err != nil || string(data) != tt.json || tt.f.String() != tt.line {
			t.Errorf("%q, %s, %v; want %q, %s", tt.f.String(), data, err, tt.line, tt.json)
		}
	}
	if got := Failed([]Finding{{Level: Fail}, {Level: Warn}, {Level: OK}, {Level: Fail}}); got != 2 {
		t.Errorf("%d failed, want 2", got)
	}
}

// TestEndsInTime: a check that gets no answer does not keep the others.
func TestEndsInTime(t *testing.T) {
	w := newWorld(t)
	w.o.ENIs = func(ctx context.Context) ([]vpc.ENI, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a check without a time limit")
		}
		return nil, context.DeadlineExceeded
	}
	if got := w.report(); !strings.Contains(got, "FAIL  instance metadata: it cannot be read: context deadline exceeded") ||
		!strings.Contains(got, "ok    daemon: ") {
		t.Errorf("report:\n%s", got)
	}
}
