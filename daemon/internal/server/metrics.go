package server

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

const namespace = "multi_eni"

// The labels of driver_changes_total.
const (
	toKernel     = "kernel"
	toUserspace  = "userspace"
	driverBound  = "bound"
	driverFailed = "failed"
)

// metrics count the work of Syncs. The collector state reads the present from the last View.
//
// Every label has few values. None names a pod, an ENI or a NodeENI: these come and go without end.
type metrics struct {
	writes   prometheus.Counter
	accepted prometheus.Counter
	restarts *prometheus.CounterVec
	drivers  *prometheus.CounterVec
	restart  prometheus.Histogram
	removal  prometheus.Histogram
	sync     prometheus.Histogram
}

func (s *Server) register() {
	s.metrics = metrics{
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "config_writes_total", Help: "How often the device plugin's config was written.",
		}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "offer_registrations_total", Help: "How often the kubelet has accepted a resource that the daemon offers.",
		}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "device_plugin_restarts_total", Help: "Restarts of the device plugin that have ended, by result.",
		}, []string{"result"}),
		drivers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "driver_changes_total", Help: "Changes of a device's driver that have ended, by whose driver it was to have and result.",
		}, []string{"to", "result"}),
		restart: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "device_plugin_restart_duration_seconds",
			Help:    "Time from the begin of a restart of the device plugin until it was verified or given up.",
			Buckets: []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300},
		}),
		removal: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "removal_to_config_seconds",
			Help:    "Time from when a removal was first seen until the device plugin's config was without the device.",
			Buckets: []float64{.01, .025, .05, .1, .2, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "sync_duration_seconds", Help: "Time that one look at the whole node took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	for _, result := range []view.RestartResult{view.RestartVerified, view.RestartNoneFound, view.RestartFailed} {
		s.metrics.restarts.WithLabelValues(string(result)) // a rate needs the 0 before the 1
	}
	for _, to := range []string{toKernel, toUserspace} {
		for _, result := range []string{driverBound, driverFailed} {
			s.metrics.drivers.WithLabelValues(to, result)
		}
	}
	s.registry.MustRegister(
		s.metrics.writes, s.metrics.accepted, s.metrics.restarts, s.metrics.drivers, s.metrics.restart, s.metrics.removal, s.metrics.sync, state{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	if s.EventsDropped != nil {
		s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Name: "events_dropped_total", Help: "Kubernetes Events that were given up because the API server took none for too long.",
		}, func() float64 { return float64(s.EventsDropped()) }))
	}
}

func (s *Server) count(did view.Did) {
	m := &s.metrics
	m.sync.Observe(did.Took.Seconds())
	if did.ConfigWritten {
		m.writes.Inc()
	}
	m.accepted.Add(float64(did.Registrations))
	for _, d := range did.Withdrawn {
		m.removal.Observe(d.Seconds())
	}
	for _, d := range did.DriverChanges {
		to, result := toKernel, driverBound
		if (sysfs.PCIFunction{Driver: d.To}).UserspaceDriver() {
			to = toUserspace
		}
		if d.Err != nil {
			result = driverFailed
		}
		m.drivers.WithLabelValues(to, result).Inc()
	}
	if did.Restart != nil {
		m.restarts.WithLabelValues(string(did.Restart.Result)).Inc()
		m.restart.Observe(did.Restart.Took.Seconds())
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

// state is a collector of the last View.
type state struct{ s *Server }

// Describe implements prometheus.Collector. It sends nothing: the set of metrics depends on the View.
func (state) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c state) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(describe("build_info", "Always 1; the labels say which daemon this is.", "version", "goversion"), 1, c.s.Version, runtime.Version())
	if c.s.API != nil {
		reachable, reason := c.s.API()
		gauge(describe("api_reachable", "1 while the API server is followed, else 0."), number(reachable))
		if reason != "" {
			gauge(describe("api_fault", "1 for the reason why the API server cannot be followed.", "reason"), 1, reason)
		}
	}
	if v := c.s.last(); v != nil {
		collectView(v, gauge)
		collectPools(c.s.Leases, v, gauge)
	}
}

const (
	stateFree     = "free"
	stateRetiring = "retiring"
)

func collectPools(dir leases.Dir, v *view.View, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	pools, err := dir.Pools(v.Inventory.BootID, v.Inventory.Devices)
	if err != nil {
		return // a problem says so; half of them would look like the whole
	}
	exhausted := 0
	type key struct{ family, state string }
	sums := map[key]float64{}
	for _, p := range pools {
		if p.Free() == 0 {
			exhausted++
		}
		for state, n := range map[string]int{string(leases.Held): p.Leased, string(leases.Cooling): p.Cooling, stateRetiring: p.Retiring, stateFree: p.Free()} {
			sums[key{p.Family, state}] += float64(n)
		}
	}
	addresses := describe("pod_addresses", "Addresses that ENIs have for pods which share them, by family and state.", "family", "state")
	for k, n := range sums {
		gauge(addresses, n, k.family, k.state)
	}
	gauge(describe("exhausted_pools", "ENIs' pools of addresses for pods, of one family each, of which none is free."), float64(exhausted))
}

func collectView(v *view.View, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	gauge(describe("last_sync_timestamp_seconds", "When the node was last looked at, in seconds since 1970."), float64(v.At.UnixMilli())/1000)
	phases := map[nodestate.Phase]int{nodestate.PhasePending: 0, nodestate.PhaseReady: 0, nodestate.PhaseDraining: 0}
	advertised := 0
	for _, d := range v.Inventory.Devices {
		phases[d.Phase]++
		if d.Phase == nodestate.PhaseReady && d.ResourceName != "" {
			advertised++
		}
	}
	devices := describe("devices", "Devices of the inventory, by phase.", "phase")
	for phase, n := range phases {
		gauge(devices, float64(n), string(phase))
	}
	gauge(describe("advertised_devices", "Devices that are ready and to be offered to pods."), float64(advertised))
	reasons := map[nodestate.Reason]int{}
	for _, p := range v.Inventory.Problems {
		reasons[p.Reason]++
	}
	problems := describe("problems", "Problems that a person must look at, by reason.", "reason")
	for why, n := range reasons {
		gauge(problems, float64(n), string(why))
	}
	gauge(describe("holders", "Attachments and allocations that have a device."), float64(len(v.Holders)))
	gauge(describe("config_current", "1 while the device plugin's config is as the devices want it, else 0."), number(v.Config.Current))
	gauge(describe("device_plugin_pods", "Pods of the device plugin on this node."), float64(len(v.Plugin.Pods)))
	states := describe("device_plugin_state", "1 for the state that the device plugin is in, 0 for the others.", "state")
	for _, s := range []view.PluginState{
		view.PluginUnknown, view.PluginUnmanaged, view.PluginNotFound, view.PluginPending,
		view.PluginRestarting, view.PluginServing, view.PluginFailed,
	} {
		gauge(states, number(v.Plugin.State == s), string(s))
	}
	collectOffer(v.Offer, gauge)
}

// The values of the label health of offered_devices.
const (
	healthy   = "healthy"
	unhealthy = "unhealthy"
)

func collectOffer(o view.OfferView, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	modes := describe("offer_mode", "1 for the way in which devices are offered to the kubelet, 0 for the other.", "mode")
	for _, m := range []nodestate.OfferMode{nodestate.OfferPCIDP, nodestate.OfferDevicePlugin} {
		gauge(modes, number(o.Mode == m), string(m))
	}
	states := describe("offer_state", "1 for the state of the daemon's own offer, 0 for the others. All are 0 where the device plugin has the devices.", "state")
	for _, s := range view.OfferStates() {
		gauge(states, number(o.State == s), string(s))
	}
	devices := describe("offered_devices", "Devices that the daemon offers to the kubelet, by resource and health.", "resource", "health")
	for _, r := range o.Served() {
		gauge(devices, float64(r.Healthy), r.Name.String(), healthy)
		gauge(devices, float64(r.Unhealthy), r.Name.String(), unhealthy)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
