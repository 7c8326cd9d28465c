package control

import (
	"regexp"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
)

const namespace = "multi_eni_controller"

func (s *Server) register() {
	s.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "ec2_calls_total",
		Help: "Calls to EC2 that have ended, by action and EC2's error code. OK is success, NoAnswer may have been done, NotSent was not.",
	}, []string{"action", "code"})
	s.registry.MustRegister(s.calls, state{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// Called counts a call to EC2 that has ended. code is EC2's error code, or a word for its absence.
func (s *Server) Called(action, code string) {
	if !aCode.MatchString(code) {
		code = codeOther
	}
	s.calls.WithLabelValues(action, code).Inc()
}

// aCode is how EC2 writes an error code. Other texts, of a proxy, would be values without end.
var aCode = regexp.MustCompile(`^[A-Z][A-Za-z]{1,59}(\.[A-Z][A-Za-z]{1,59})?$`)

const codeOther = "Other"

// state is a collector of the present State.
type state struct{ s *Server }

// Describe implements prometheus.Collector. It sends nothing: the set of metrics depends on the State.
func (state) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. Only the leader has slots and ENIs, so that a sum over both replicas counts each once.
func (c state) Collect(out chan<- prometheus.Metric) {
	gauge := func(name, help string, v float64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(namespace+"_"+name, help, nil, nil), prometheus.GaugeValue, v)
	}
	now := c.s.State()
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(namespace+"_build_info", "Always 1; the labels say which controller this is.",
		[]string{"version", "goversion"}, nil), prometheus.GaugeValue, 1, c.s.Version, runtime.Version())
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(namespace+"_events_dropped_total",
		"Kubernetes Events that were given up because the API server took none for too long.", nil, nil), prometheus.CounterValue, float64(now.EventsDropped))
	out <- attachSeconds(now.Attach)
	if !now.Leader {
		gauge("leader", "1 while this replica leads, else 0.", 0)
		return
	}
	gauge("leader", "1 while this replica leads, else 0.", 1)
	gauge("leaked_enis", "ENIs with this cluster's tag that belong to no slot, as the last sweep has seen them.", float64(now.Leaked))
	gauge("parked_enis", "ENIs that outlived their instance and wait for the next node.", float64(now.Parked))
	gauge("release_wait_seconds", "Longest present wait for a daemon's release of an ENI, among instances that run.", now.Waiting.Seconds())
	if !now.Resynced.IsZero() {
		gauge("resync_age_seconds", "Age of the last whole look at EC2 and Kubernetes.", c.s.Now().Sub(now.Resynced).Seconds())
	}
	slots := prometheus.NewDesc(namespace+"_slots", "Slots, each for one ENI, by phase.", []string{"phase"}, nil)
	for _, phase := range phases() {
		out <- prometheus.MustNewConstMetric(slots, prometheus.GaugeValue, float64(now.Slots[string(phase)]), string(phase))
	}
	blocked := prometheus.NewDesc(namespace+"_blocked", "Slots that cannot go on, by reason.", []string{"reason"}, nil)
	if now.OtherController {
		out <- prometheus.MustNewConstMetric(blocked, prometheus.GaugeValue, 1, otherController)
	}
	for why, n := range now.Blocked {
		out <- prometheus.MustNewConstMetric(blocked, prometheus.GaugeValue, float64(n), why)
	}
	rates := prometheus.NewDesc(namespace+"_throttle_rate", "Calls a second that the controller allows itself, by action.", []string{"action"}, nil)
	for action, rate := range now.Rates {
		out <- prometheus.MustNewConstMetric(rates, prometheus.GaugeValue, rate, action)
	}
}

// otherController is the value of the label reason while the public controller is at work. It is no slot's.
const otherController = "OtherController"

// attachSeconds is a histogram without its buckets before the first observation.
func attachSeconds(h Histogram) prometheus.Metric {
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range h.Counts {
		total += n
		if i < len(h.Bounds) {
			buckets[h.Bounds[i]] = total
		}
	}
	desc := prometheus.NewDesc(namespace+"_attach_seconds", "Time from when a slot was first wanted until its ENI was attached.", nil, nil)
	return prometheus.MustNewConstHistogram(desc, total, h.Sum, buckets)
}

// phases are all, so that a graph has the 0 before the 1.
func phases() []lifecycle.Phase {
	return []lifecycle.Phase{
		lifecycle.Wanted, lifecycle.Creating, lifecycle.Created, lifecycle.Attaching, lifecycle.Attached, lifecycle.Ready, lifecycle.Draining,
		lifecycle.Released, lifecycle.Detaching, lifecycle.Deleting, lifecycle.Parked, lifecycle.Blocked, lifecycle.External,
	}
}
