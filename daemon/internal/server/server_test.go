package server

import (
	"errors"
	"flag"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/scrape"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newServerAt(t *testing.T, c *clock) *Server {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	return New(Options{
		Leases:  leases.Dir(t.TempDir()),
		Version: "v1.2.3", Inventory: "/run/multi-eni/inventory.json", Now: c.Now, Log: log,
		API:           func() (bool, string) { return false, "Forbidden" },
		EventsDropped: func() uint64 { return 7 },
	})
}

// busy is a View in which everything happens.
func busy() view.View {
	return view.View{
		At: noon,
		Inventory: nodestate.Inventory{
			SchemaVersion: nodestate.SchemaVersion, NodeName: "node-a", BootID: "boot-1", UpdatedAt: noon,
			Devices: []nodestate.Device{
				{ENIID: "eni-00000001", NodeENI: "a", PCIAddress: "0000:00:06.0", Phase: nodestate.PhaseReady,
					SubnetCIDR: netip.MustParsePrefix("10.0.1.0/24"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.9/24"),
						netip.MustParsePrefix("10.0.1.10/24")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.16/28")}},
				{ENIID: "eni-00000002", NodeENI: "a", PCIAddress: "0000:00:07.0", ResourceName: "intel.com/sriov_net", Phase: nodestate.PhaseReady},
				{ENIID: "eni-00000003", NodeENI: "b", PCIAddress: "0000:00:08.0", Phase: nodestate.PhaseDraining},
			},
			Problems: []nodestate.Problem{
				{Reason: "InvalidMTU", NodeENI: "a", Message: "mtu 3 is too small"},
				{Reason: "InvalidMTU", NodeENI: "b", Message: "mtu 4 is too small"},
				{Reason: "ConfigUnwritable", Message: "read-only file system"},
			},
		},
		Declared: []view.Declared{{Name: "a", UID: "u-a", Generation: 2}},
		Holders:  []view.Holder{{PCIAddress: "0000:00:08.0", Pod: "red/router-0", PodUID: "u-p"}},
		Config:   view.ConfigView{Path: "/etc/pcidp/config.json", Hash: "abc", Current: true},
		Plugin:   view.PluginView{State: view.PluginServing, Pods: []string{"kube-system/sriov-x"}, ServedHash: "abc"},
		Offer: view.OfferView{Mode: nodestate.OfferDevicePlugin, Wanted: nodestate.OfferDevicePlugin, State: view.OfferOffered,
			Resources: []view.OfferedResource{{Name: "intel.com/sriov_net", Registered: true, Healthy: 1, Unhealthy: 2}}},
		Did: view.Did{
			Registrations: 3,
			Took:          30 * time.Millisecond, ConfigWritten: true, Withdrawn: []time.Duration{90 * time.Millisecond},
			DriverChanges: []view.DriverChange{{To: "vfio-pci"}, {To: "ena", Err: errors.New("no")}},
			Restart:       &view.RestartDone{Result: view.RestartVerified, Took: 4 * time.Second},
		},
	}
}

func metricsOf(t *testing.T, s *Server) string {
	t.Helper()
	return scrape.Text(t, s.registry, namespace)
}

func TestMetrics(t *testing.T) {
	s := newServerAt(t, &clock{noon})
	golden(t, "before.txt", metricsOf(t, s))
	s.Observe(busy())
	hold := nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}
	l, err := s.Leases.Lock(t.Context(), "boot-1", "eni-00000001")
	must(t, err)
	l.Leases.Leases = []leases.Lease{
		{Address: netip.MustParseAddr("10.0.1.10"), State: leases.Held, AttachmentID: hold},
		{Address: netip.MustParseAddr("10.0.1.16"), State: leases.Held, AttachmentID: hold},
		{Address: netip.MustParseAddr("10.0.1.17"), State: leases.Cooling, FreeAt: math.MaxInt64},
	}
	l.Retiring = []netip.Prefix{netip.MustParsePrefix("10.0.1.18/32")}
	must(t, l.Save())
	l.Close()
	golden(t, "busy.txt", metricsOf(t, s))

	after := busy()
	after.Did = view.Did{Took: time.Millisecond}
	after.Inventory.Problems = nil
	s.Observe(after)
	got := metricsOf(t, s)
	if strings.Contains(got, "multi_eni_problems{") {
		t.Errorf("problems that are over are still exported:\n%s", got)
	}
	for _, want := range []string{"multi_eni_config_writes_total 1\n", "multi_eni_sync_duration_seconds_count 2\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %q:\n%s", want, got)
		}
	}
	scrape.Lint(t, s.registry, namespace)
}

// TestMetricsNameNobody: no label grows with the cluster.
func TestMetricsNameNobody(t *testing.T) {
	s := newServerAt(t, &clock{noon})
	s.Observe(busy())
	text := metricsOf(t, s)
	for _, name := range []string{"eni-00000001", "router-0", "sriov-x", "0000:00:06.0", "node-a", "abc"} {
		if strings.Contains(text, name) {
			t.Errorf("metrics name %s", name)
		}
	}
}

func TestMetricsWithoutCluster(t *testing.T) {
	log := logrus.New()
	s := New(Options{Version: "v1", Now: (&clock{noon}).Now, Log: log})
	s.Observe(busy())
	if text := metricsOf(t, s); strings.Contains(text, "multi_eni_api_") || strings.Contains(text, "multi_eni_events_") {
		t.Errorf("metrics of a cluster where there is none:\n%s", text)
	}
}

func get(t *testing.T, h http.Handler, method, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
	return w.Code, w.Body.String()
}

func TestProbes(t *testing.T) {
	c := &clock{noon}
	s := newServerAt(t, c)
	probe := func(when string, healthz, readyz int) {
		t.Helper()
		if code, body := get(t, s.public(), http.MethodGet, "/healthz"); code != healthz {
			t.Errorf("%s: healthz %d %s, want %d", when, code, body, healthz)
		}
		if code, body := get(t, s.public(), http.MethodGet, "/readyz"); code != readyz {
			t.Errorf("%s: readyz %d %s, want %d", when, code, body, readyz)
		}
	}
	probe("at start", 200, 503)
	c.now = c.now.Add(aliveWithin + time.Second)
	probe("when the first Sync hangs", 503, 503)

	unknown := busy()
	unknown.Inventory.Problems = []nodestate.Problem{{Reason: "NodeENIsUnreadable", Message: "not read yet"}}
	s.Observe(unknown)
	probe("while nothing is known of the NodeENIs", 200, 503)
	s.Observe(busy())
	probe("at work", 200, 200)
	s.Observe(unknown)
	probe("in an outage", 200, 200)
	c.now = c.now.Add(aliveWithin + time.Second)
	probe("when a Sync hangs", 503, 200)
}

func TestPublicTellsOnlyThese(t *testing.T) {
	s := newServerAt(t, &clock{noon})
	s.Observe(busy())
	for path, want := range map[string]int{"/metrics": 200, status.StatusPath: 404, "/debug/pprof/": 404, "/": 404} {
		if code, _ := get(t, s.public(), http.MethodGet, path); code != want {
			t.Errorf("GET %s: %d, want %d", path, code, want)
		}
	}
	if code, _ := get(t, s.public(), http.MethodPost, "/metrics"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %d", code)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestShippedMetrics: alerts, dashboard and docs/operations.md speak of metrics that there are, and docs/operations.md of each.
func TestShippedMetrics(t *testing.T) {
	s := newServerAt(t, &clock{noon})
	s.Observe(busy())
	families, err := s.registry.Gather()
	must(t, err)
	var served []string
	for _, f := range families {
		served = append(served, f.GetName())
	}
	name := regexp.MustCompile(`multi_eni_[a-z_]+`)
	histogram := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, path := range []string{"deploy/components/monitoring/alerts.yaml", "deploy/components/monitoring/dashboard.json", "docs/operations.md"} {
		data, err := os.ReadFile("../../../" + path)
		must(t, err)
		for _, m := range name.FindAllString(string(data), -1) {
			if strings.HasPrefix(m, "multi_eni_controller_") {
				continue // package control tries these
			}
			if !slices.Contains(served, histogram.ReplaceAllString(m, "")) {
				t.Errorf("%s: there is no metric %s", path, m)
			}
		}
		for _, m := range served {
			if strings.HasPrefix(m, namespace) && strings.HasSuffix(path, ".md") && !strings.Contains(string(data), m) {
				t.Errorf("%s does not explain %s", path, m)
			}
		}
	}
}
