package monitoring

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	operator "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

const component = "../../../deploy/components/monitoring"

func decode(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(component, file))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// ruleFile is the PrometheusRule as the operator passes it to Prometheus.
func ruleFile(t *testing.T) string {
	t.Helper()
	var rule operator.PrometheusRule
	decode(t, "alerts.yaml", &rule)
	data, err := yaml.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// from are the labels that a scrape by the PodMonitor adds.
const from = `job="kube-system/multi-enid", instance="10.0.0.7:9616", node="node-1"`

// controllerFrom are the same of a replica of the controller.
const controllerFrom = `job="kube-system/multi-enid-controller", instance="10.0.0.8:9617", pod="multi-enid-controller-x", node="node-2"`

// alertCase is a daemon's metrics, and the alert that they must cause, with its times.
type alertCase struct {
	alert string
	// series are in the notation of promtool: one sample a minute.
	series []string
	// silent is the last minute before, firing the first with, over the first after the alert; 0 if it does not end.
	silent, firing, over int
	summary              string
}

func alertCases() []alertCase {
	state := func(name, samples string) string {
		return `multi_eni_device_plugin_state{state="` + name + `", ` + from + `} ` + samples
	}
	offer := func(name, samples string) string {
		return `multi_eni_offer_state{state="` + name + `", ` + from + `} ` + samples
	}
	mode := func(name string) string { return `multi_eni_offer_mode{mode="` + name + `", ` + from + `} 1x60` }
	return []alertCase{
		{"MultiENIDaemonDown", []string{`up{` + from + `} 1x4 0x20 1x5`}, 14, 15, 26, "multi-enid on node-1 does not answer"},
		{"MultiENINodeNotWatched", []string{`multi_eni_last_sync_timestamp_seconds{` + from + `} 0+60x5 300x30 2220+60x5`}, 25, 26, 38, "has not looked at its node"},
		{"MultiENIAPIUnreachable", []string{`multi_eni_api_reachable{` + from + `} 1x4 0x30 1x5`}, 19, 20, 36, "cannot follow the API server"},
		{"MultiENIProblem", []string{`multi_eni_problems{reason="OrphansUnwatched", ` + from + `} _x5 1x30`}, 19, 20, 0, "OrphansUnwatched on node-1"},
		{"MultiENIDevicePending", []string{`multi_eni_devices{phase="pending", ` + from + `} 0x4 2x30 0x5`}, 19, 20, 36,
			"2 declared devices of node-1 are not ready"},
		{"MultiENIDeviceDraining", []string{`multi_eni_devices{phase="draining", ` + from + `} 0x4 1x400 0x5`}, 364, 365, 406,
			"1 removed devices of node-1 are still held"},
		{"MultiENIConfigNotCurrent", []string{`multi_eni_config_current{` + from + `} 1x4 0x20 1x5`}, 9, 10, 26, "config on node-1 does not match the devices"},
		{
			"MultiENIDevicePluginNotFound",
			[]string{state("NotFound", "1x60"), mode("pcidp"), `multi_eni_offer_mode{mode="deviceplugin", ` + from + `} 0x60`,
				`multi_eni_advertised_devices{` + from + `} 0x9 1x30 0x10`},
			24, 25, 41, "No SR-IOV device plugin on node-1",
		},
		{"MultiENIDevicePluginNotServing", []string{state("RestartFailed", "0x4 1x20 0x5"), state("Serving", "1x4 0x20 1x5")}, 14, 15, 26, "(RestartFailed)"},
		{"MultiENIOfferNotRegistered", []string{offer("KubeletAway", "0x4 1x20 0x5"), offer("Offered", "1x4 0x20 1x5"), mode("deviceplugin")}, 9, 10, 26,
			"The kubelet on node-1 does not accept"},
		{"MultiENIOfferStuck", []string{offer("TakingOver", "0x4 1x20 0x5"), offer("Offered", "0x25 1x5"), mode("deviceplugin"),
			state("RestartFailed", "1x60"), state("NotFound", "1x60"), `multi_eni_advertised_devices{` + from + `} 2x60`}, 19, 20, 26, "(TakingOver)"},
		{
			"MultiENIDevicePluginRestartsOften",
			[]string{`multi_eni_device_plugin_restarts_total{result="verified", ` + from + `} 0x4 0+1x5 5x120`,
				`multi_eni_device_plugin_restarts_total{result="failed", ` + from + `} 0x4 0+1x5 5x120`},
			7, 10, 80, "times in an hour",
		},
		{"MultiENIDriverChangeFailed", []string{`multi_eni_driver_changes_total{result="failed", to="kernel", ` + from + `} 0x4 1x120`}, 4, 6, 70,
			"could not change its driver"},
		{"MultiENIAddressesExhausted", []string{`multi_eni_exhausted_pools{` + from + `} 0x4 1x20 0x5`}, 9, 10, 26, "1 address pools on node-1"},
		{"MultiENIEventsDropped", []string{`multi_eni_events_dropped_total{` + from + `} 0x4 3x120`}, 4, 6, 70, "could not send Events"},
	}
}

// controllerCases are the same for the controller's metrics.
func controllerCases() []alertCase {
	metric := func(name, samples string) string {
		begin, labels, labelled := strings.Cut(name, "{")
		if labelled {
			labels = strings.TrimSuffix(labels, "}") + ", "
		}
		return "multi_eni_controller_" + begin + "{" + labels + controllerFrom + "} " + samples
	}
	return []alertCase{
		{"MultiENIControllerDown", []string{`up{` + controllerFrom + `} 1x4 0x20 1x5`}, 14, 15, 26, "multi-enid-controller-x does not answer"},
		{"MultiENIControllerNotLed", []string{metric("leader", "1x4 0x20 1x5"), `multi_eni_controller_leader{job="kube-system/multi-enid-controller", pod="y"} 0x40`},
			9, 10, 26, "No replica"},
		{"MultiENIControllerPaused", []string{metric(`blocked{reason="OtherController"}`, "_x5 1x30")}, 19, 20, 0, "Another controller"},
		{"MultiENIControllerResyncOld", []string{metric("resync_age_seconds", "0+60x40 0x5")}, 35, 36, 42, "has not compared EC2"},
		{"MultiENIControllerDenied", []string{metric(`ec2_calls_total{action="CreateNetworkInterface", code="UnauthorizedOperation"}`, "0x4 1x60")}, 14, 16, 45,
			"denies CreateNetworkInterface to the controller (UnauthorizedOperation)"},
		{"MultiENIControllerThrottled", []string{metric(`ec2_calls_total{action="AttachNetworkInterface", code="RequestLimitExceeded"}`, "0x4 0+1x90 90x20")},
			64, 67, 110, "throttled AttachNetworkInterface"},
		{"MultiENISlotsBlocked", []string{metric(`blocked{reason="SubnetFull"}`, "_x5 3x30")}, 19, 20, 0, "3 ENIs cannot be had (SubnetFull)"},
		{"MultiENIReleaseWaits", []string{metric("release_wait_seconds", "0+60x370 0x9")}, 365, 367, 375, "has waited for its release for 6h"},
		{"MultiENIDetachStuck", []string{metric(`slots{phase="Detaching"}`, "0x4 1x40 0x5")}, 34, 35, 46, "1 ENIs do not finish"},
		{"MultiENILeakedENIs", []string{metric("leaked_enis", "0x4 2x70 0x5")}, 64, 65, 76, "2 ENIs of this cluster"},
	}
}

func TestAlerts(t *testing.T) {
	path := ruleFile(t)
	tried := map[string]bool{}
	for _, tt := range slices.Concat(alertCases(), controllerCases()) {
		tried[tt.alert] = true
		t.Run(tt.alert, func(t *testing.T) {
			firing := evaluate(t, path, tt.series, max(tt.firing, tt.over))
			for minute, want := range map[int]bool{tt.silent: false, tt.firing: true, tt.over: false} {
				if minute == 0 {
					continue
				}
				if got := slices.Contains(names(firing[minute]), tt.alert); got != want {
					t.Errorf("in minute %d it fires: %v, want %v", minute, got, want)
				}
			}
			for _, a := range firing[tt.firing] {
				if a.name != tt.alert {
					t.Errorf("%s fires as well", a.name)
				}
				if !strings.Contains(a.summary, tt.summary) {
					t.Errorf("summary %q, want %q in it", a.summary, tt.summary)
				}
			}
		})
	}
	for _, name := range defined(t) {
		if !tried[name] {
			t.Errorf("%s is not tried", name)
		}
	}
}

func TestHealthyNodeIsSilent(t *testing.T) {
	firing := evaluate(t, ruleFile(t), []string{
		`up{` + from + `} 1x1440`, `multi_eni_last_sync_timestamp_seconds{` + from + `} 0+60x1440`, `multi_eni_api_reachable{` + from + `} 1x1440`,
		`multi_eni_devices{phase="pending", ` + from + `} 0x1440`, `multi_eni_devices{phase="ready", ` + from + `} 3x1440`,
		`multi_eni_devices{phase="draining", ` + from + `} 0x1440`,
		`multi_eni_config_current{` + from + `} 1x1440`, `multi_eni_device_plugin_state{state="Serving", ` + from + `} 1x1440`,
		`multi_eni_device_plugin_state{state="NotFound", ` + from + `} 0x1440`, `multi_eni_advertised_devices{` + from + `} 2x1440`,
		`multi_eni_device_plugin_restarts_total{result="verified", ` + from + `} 0x100 1x500 2x840`,
		`multi_eni_driver_changes_total{result="failed", to="kernel", ` + from + `} 0x1440`, `multi_eni_events_dropped_total{` + from + `} 0x1440`,
	}, 1440)
	for minute, got := range firing {
		if len(got) > 0 {
			t.Errorf("minute %d: %v", minute, got)
		}
	}
}

// TestHealthyControllerIsSilent: with a stopped instance, a node of Auto Mode, a parked ENI and a bulk of work there is nothing to do for people.
func TestHealthyControllerIsSilent(t *testing.T) {
	of := controllerFrom + "} "
	firing := evaluate(t, ruleFile(t), []string{
		`up{` + of + `1x1440`, `multi_eni_controller_leader{` + of + `1x1440`, `multi_eni_controller_resync_age_seconds{` + of + `0+60x9 0+60x9 0+60x9`,
		`multi_eni_controller_blocked{reason="InstanceNotRunning", ` + of + `2x1440`, `multi_eni_controller_blocked{reason="InstanceGone", ` + of + `1x1440`,
		`multi_eni_controller_blocked{reason="AutoModeNode", ` + of + `4x1440`, `multi_eni_controller_parked_enis{` + of + `1x1440`,
		`multi_eni_controller_slots{phase="Draining", ` + of + `2x1440`, `multi_eni_controller_slots{phase="Wanted", ` + of + `2x1440`,
		`multi_eni_controller_slots{phase="Detaching", ` + of + `0x10 3x5 0x1425`, `multi_eni_controller_release_wait_seconds{` + of + `0x1440`,
		`multi_eni_controller_ec2_calls_total{action="CreateNetworkInterface", code="OK", ` + of + `0+240x1440`,
		`multi_eni_controller_ec2_calls_total{action="CreateNetworkInterface", code="RequestLimitExceeded", ` + of + `0x100 5x1340`,
		`multi_eni_controller_leaked_enis{` + of + `0x60 1x19 0x1360`,
	}, 1440)
	for minute, got := range firing {
		if len(got) > 0 {
			t.Errorf("minute %d: %v", minute, got)
		}
	}
}

// A node without a device plugin and without devices to offer is healthy.
func TestNodeWithoutDevices(t *testing.T) {
	firing := evaluate(t, ruleFile(t), []string{`multi_eni_device_plugin_state{state="NotFound", ` + from + `} 1x60`,
		`multi_eni_advertised_devices{` + from + `} 0x60`}, 60)
	if got := firing[60]; len(got) > 0 {
		t.Errorf("%v", got)
	}
}

// TestNodeWithOwnOffer: a node that offers its devices itself needs no device plugin. It does again once the mode is pcidp.
func TestNodeWithOwnOffer(t *testing.T) {
	for state, want := range map[string]string{"NotFound": "MultiENIDevicePluginNotFound", "RestartFailed": "MultiENIDevicePluginNotServing",
		"Restarting": "MultiENIDevicePluginNotServing", "RestartPending": "MultiENIDevicePluginNotServing"} {
		firing := evaluate(t, ruleFile(t), []string{`multi_eni_device_plugin_state{state="` + state + `", ` + from + `} 1x90`,
			`multi_eni_advertised_devices{` + from + `} 2x90`, `multi_eni_offer_state{state="Offered", ` + from + `} 1x60 0x30`,
			`multi_eni_offer_mode{mode="deviceplugin", ` + from + `} 1x60 0x30`, `multi_eni_offer_mode{mode="pcidp", ` + from + `} 0x60 1x30`}, 90)
		for minute, got := range firing[:61] {
			if len(got) > 0 {
				t.Errorf("%s, minute %d: %v", state, minute, got)
			}
		}
		if got := names(firing[90]); !slices.Equal(got, []string{want}) {
			t.Errorf("%s, in mode pcidp: %q, want %s", state, got, want)
		}
	}
}

type alert struct{ name, summary string }

func names(alerts []alert) (all []string) {
	for _, a := range alerts {
		all = append(all, a.name)
	}
	return all
}

func evaluate(t *testing.T, ruleFile string, series []string, last int) [][]alert {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n  "+strings.Join(series, "\n  ")+"\n")
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, promqltest.DefaultMaxSamplesPerQuery)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, storage), Queryable: storage, Appendable: storage,
		Context: t.Context(), Logger: slog.New(slog.DiscardHandler), NotifyFunc: rules.SendAlerts(noAlertmanager{}, ""),
	})
	groups, errs := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, ruleFile)
	if len(errs) > 0 || len(groups) != 1 {
		t.Fatalf("%d groups, %v", len(groups), errs)
	}
	firing := make([][]alert, last+1)
	for _, g := range groups {
		for minute := range firing {
			g.Eval(t.Context(), time.Unix(int64(minute)*60, 0).UTC())
			for _, r := range g.AlertingRules() {
				if r.LastError() != nil {
					t.Fatalf("%s: %v", r.Name(), r.LastError())
				}
				for _, a := range r.ActiveAlerts() {
					if a.State == rules.StateFiring {
						firing[minute] = append(firing[minute], alert{r.Name(), a.Annotations.Get("summary")})
					}
				}
			}
		}
	}
	return firing
}

// noAlertmanager takes alerts and sends them nowhere.
type noAlertmanager struct{}

func (noAlertmanager) Send(...*notifier.Alert) {}

func defined(t *testing.T) (all []string) {
	t.Helper()
	var rule operator.PrometheusRule
	decode(t, "alerts.yaml", &rule)
	for _, g := range rule.Spec.Groups {
		for _, r := range g.Rules {
			all = append(all, r.Alert)
		}
	}
	return all
}

func TestAlertsSayWhatToDo(t *testing.T) {
	var rule operator.PrometheusRule
	decode(t, "alerts.yaml", &rule)
	for _, g := range rule.Spec.Groups {
		for _, r := range g.Rules {
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: annotations %v", r.Alert, r.Annotations)
			}
			heading := runbook(t, r.Annotations["runbook_url"])
			if heading != r.Alert {
				t.Errorf("%s: runbook_url %q leads to the heading %q", r.Alert, r.Annotations["runbook_url"], heading)
			}
			if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
		}
	}
}

const project = "https://github.com/multi-eni/multi-eni-cni/blob/main/"

// runbook is the heading to which a URL of a document of this repository leads, or "".
func runbook(t *testing.T, url string) string {
	t.Helper()
	page, anchor, _ := strings.Cut(strings.TrimPrefix(url, project), "#")
	if page == url || anchor == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join("../../..", page))
	if err != nil {
		t.Error(err)
		return ""
	}
	for line := range strings.Lines(string(data)) {
		heading, isHeading := strings.CutPrefix(strings.TrimSpace(line), "### ")
		if isHeading && strings.ToLower(heading) == anchor {
			return heading
		}
	}
	return ""
}

func TestPodMonitor(t *testing.T) {
	for _, file := range []string{"podmonitor.yaml", "podmonitor-controller.yaml"} {
		t.Run(file, func(t *testing.T) { podMonitor(t, file) })
	}
}

func podMonitor(t *testing.T, file string) {
	t.Helper()
	var monitor operator.PodMonitor
	decode(t, file, &monitor)
	port := "metrics"
	want := []operator.PodMetricsEndpoint{{Port: &port, RelabelConfigs: []operator.RelabelConfig{
		{SourceLabels: []operator.LabelName{"__meta_kubernetes_pod_node_name"}, TargetLabel: "node"},
	}}}
	if diff := cmp.Diff(want, monitor.Spec.PodMetricsEndpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}
