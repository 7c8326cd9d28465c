package control

import (
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
	"github.com/multi-eni/multi-eni-cni/test/scrape"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// world is a controller whose clock and State a test sets.
type world struct {
	now   time.Time
	state State
}

func (w *world) server(t *testing.T) *Server {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	return New(Options{Version: "v1.2.3", State: func() State { return w.state }, Now: func() time.Time { return w.now }, Log: log})
}

// busy is the State of a leader with one of everything.
func busy() State {
	return State{
		Synced: true, Leader: true, Turned: noon, Resynced: noon.Add(-90 * time.Second), Waiting: 7 * time.Minute, Leaked: 2, Parked: 1, EventsDropped: 4,
		Attach:  Histogram{Bounds: []float64{.5, 1.5, 60}, Counts: []uint64{0, 3, 1, 1}, Sum: 142.5},
		Slots:   map[string]int{"Ready": 5, "Blocked": 3, "Draining": 1},
		Blocked: map[string]int{"SubnetFull": 2, "Forbidden": 1},
		Rates:   map[string]float64{"CreateNetworkInterface": 4, "AttachNetworkInterface": 0.5},
	}
}

func metricsOf(t *testing.T, s *Server) string {
	t.Helper()
	return scrape.Text(t, s.registry, namespace)
}

// TestMetrics: a standby shows that it is none, a leader everything; names follow Prometheus' rules.
func TestMetrics(t *testing.T) {
	w := &world{now: noon, state: State{Synced: true}}
	s := w.server(t)
	golden(t, "standby.txt", metricsOf(t, s))
	w.state = busy()
	for _, code := range []string{"OK", "OK", "NoAnswer", "InsufficientFreeAddressesInSubnet", "InvalidAttachmentID.NotFound", "<html>", "", "50x"} {
		s.Called("CreateNetworkInterface", code)
	}
	golden(t, "leader.txt", metricsOf(t, s))
	w.state = State{Leader: true, OtherController: true}
	if got := metricsOf(t, s); !strings.Contains(got, `multi_eni_controller_blocked{reason="OtherController"} 1`) {
		t.Errorf("beside the public controller:\n%s", got)
	}
	w.state = busy()
	scrape.Lint(t, s.registry, namespace)
}

// TestProbes: a leader whose loop hangs is restarted, a standby is not, and whoever knows the objects is ready.
func TestProbes(t *testing.T) {
	for name, tt := range map[string]struct {
		state          State
		after          time.Duration
		healthz, ready int
	}{
		"at the start":                {State{}, 0, 200, 503},
		"a standby":                   {State{Synced: true}, time.Hour, 200, 200},
		"a standby that never read":   {State{}, time.Hour, 200, 503},
		"a leader":                    {busy(), aliveWithin, 200, 200},
		"a leader that hangs":         {busy(), aliveWithin + 1, 503, 200},
		"a new leader":                {State{Synced: true, Leader: true}, time.Minute, 200, 200},
		"a leader that waits for EC2": {State{Synced: true, Leader: true}, aliveWithin + 1, 200, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{now: noon}
			s := w.server(t)
			w.now, w.state = noon.Add(tt.after), tt.state
			for path, want := range map[string]int{"/healthz": tt.healthz, "/readyz": tt.ready, "/": 404, "/debug/pprof/": 404} {
				if code, body := get(t, s.handler(), http.MethodGet, path); code != want {
					t.Errorf("GET %s: %d %s, want %d", path, code, body, want)
				}
			}
			if code, _ := get(t, s.handler(), http.MethodPost, "/metrics"); code != http.StatusMethodNotAllowed {
				t.Errorf("POST /metrics: %d", code)
			}
		})
	}
}

// TestRun: it serves until its context ends, and says which flag names a taken address.
func TestRun(t *testing.T) {
	w := &world{now: noon, state: busy()}
	s := w.server(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, l) }()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + l.Addr().String() + "/metrics")
	must(t, err)
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(body), "multi_eni_controller_leader 1\n") {
		t.Errorf("%v\n%s", err, body)
	}
	if err := s.Run(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "--listen "+l.Addr().String()) {
		t.Errorf("a taken address: %v", err)
	}
	cancel()
	must(t, <-ended)
	for _, none := range []string{"", web.Off} {
		must(t, s.Run(ctx, none))
	}
}

// TestShippedMetrics: alerts, dashboard and docs/operations.md speak of metrics that there are, and docs/operations.md of each.
func TestShippedMetrics(t *testing.T) {
	w := &world{now: noon, state: busy()}
	s := w.server(t)
	s.Called("x", "OK")
	families, err := s.registry.Gather()
	must(t, err)
	served := map[string]bool{}
	for _, f := range families {
		served[f.GetName()] = strings.HasPrefix(f.GetName(), namespace)
	}
	histogram := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, path := range []string{"deploy/components/monitoring/alerts.yaml", "deploy/components/monitoring/dashboard.json", "docs/operations.md"} {
		data, err := os.ReadFile("../../../../" + path)
		must(t, err)
		for _, m := range regexp.MustCompile(namespace+`_[a-z0-9_]+`).FindAllString(string(data), -1) {
			if !served[histogram.ReplaceAllString(m, "")] {
				t.Errorf("%s: there is no metric %s", path, m)
			}
		}
		for m, ours := range served {
			if ours && strings.HasSuffix(path, ".md") && !strings.Contains(string(data), m) {
				t.Errorf("%s does not explain %s", path, m)
			}
		}
	}
}

func get(t *testing.T, h http.Handler, method, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
	return w.Code, w.Body.String()
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
