package reconcile

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const imdsMACs = "meta-data/network/interfaces/macs/"

type metered struct {
	*testNode
	imds *fakeimds.Running
	came map[string][]time.Time // when an ENI was attached, by its MAC
	// told is the service's time, in nanoseconds: it may still answer an abandoned request while the node's time goes
	// on.
	told atomic.Int64
}

func newMetered(t *testing.T, enis int) *metered {
	t.Helper()
	m := &metered{testNode: newNode(t), came: map[string][]time.Time{}}
	m.tell()
	m.imds = fakeimds.Start(t, fakeimds.Config{Now: func() time.Time { return time.Unix(0, m.told.Load()).UTC() }})
	for e := range enis + 1 {
		m.list(e)
	}
	m.daemon.Metadata = awsnode.New(awsnode.Config{Endpoint: m.imds.URL, Now: m.tell})
	return m
}

func (m *metered) tell() time.Time {
	m.told.Store(m.now.UnixNano())
	return m.now
}

// sync repeats Sync until the metadata have answered.
func (m *metered) sync() Outcome {
	out := m.daemon.Sync(m.Context())
	for m.daemon.metadata.pending != nil {
		out = m.daemon.Sync(m.Context())
	}
	return out
}

func (m *metered) list(e int, edit ...func(*fakeimds.ENI)) {
	entry := fakeimds.ENI{
		ID: eniID(e).String(), MAC: mac(e).String(), Primary: e == 0, DeviceIndex: e, SubnetID: subnet(e).String(),
		SubnetIPv4CIDR: "10.0.0.0/16", VPCIPv4CIDRs: []string{"10.0.0.0/16"}, IPv4s: []string{fmt.Sprintf("10.0.1.%d", e)},
	}
	for _, f := range edit {
		f(&entry)
	}
	m.tell()
	m.imds.Attach(entry)
	m.came[entry.MAC] = append(m.came[entry.MAC], m.now)
}

// eniRequests is the number of requests for all keys of a new ENI.
const eniRequests = 15

// judgeRate returns the most repeated requests in any 10 s: without the first eniRequests of each new ENI and the first
// three of all.
func (m *metered) judgeRate() (most int) {
	const window = 10 * time.Second
	var at []time.Time
	asked := map[string]int{}
	for i, r := range m.imds.Log() {
		mac, _, about := strings.Cut(strings.TrimPrefix(r.Path, imdsMACs), "/")
		coming := fmt.Sprint(mac, len(slices.DeleteFunc(slices.Clone(m.came[mac]), r.At.Before)))
		if asked[coming]++; i < 3 || about && asked[coming] <= eniRequests {
			continue
		}
		at = append(at, r.At)
	}
	for i := range at {
		n := 0
		for j := i; j < len(at) && at[j].Sub(at[i]) < window; j++ {
			n++
		}
		most = max(most, n)
	}
	return most
}

// For any waiting device, event and failure, IMDS gets at most five HTTP requests a second on average over 10 s.
func TestMetadataRate(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5, rand.Uint64()}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rateWalk(t, rand.New(rand.NewPCG(seed, 0))) //nolint:gosec // to be the same again
		})
	}
}

func rateWalk(t *testing.T, r *rand.Rand) {
	const enis = 15
	m := newMetered(t, enis)
	begin := m.now
	here := map[int]bool{}
	for step := range 250 {
		e := 1 + r.IntN(enis+3)
		if r.IntN(2) == 0 {
			switch r.IntN(12) {
			case 0, 1:
				m.declare(fmt.Sprintf("n%d", e), e)
			case 2:
				if !here[e] {
					m.plug(e, "ena")
					m.host.ours[e], here[e] = true, true
				}
			case 3:
				if here[e] {
					m.unplug(e)
					here[e] = false
				}
			case 4:
				m.imds.Detach(mac(e).String())
			case 5, 6: // with the lags of a hot plug
				m.list(e, func(entry *fakeimds.ENI) {
					entry.IndexAfter, entry.AppearsAfter = fakeimds.Duration(r.IntN(60))*fakeimds.Duration(time.Second),
						fakeimds.Duration(r.IntN(20))*fakeimds.Duration(time.Second)
					if r.IntN(2) == 0 {
						entry.IPv4s = nil
					}
				})
			case 7:
				m.imds.Fault("", fakeimds.Fault{Status: []int{http.StatusServiceUnavailable, http.StatusUnauthorized, http.StatusNotFound}[r.IntN(3)], Times: r.IntN(20)})
			case 8:
				m.imds.Fault("", fakeimds.Fault{Drop: true, Times: r.IntN(6)})
			case 9:
				m.imds.RevokeTokens()
			case 10:
				m.imds.Fault(imdsMACs+mac(e).String()+"/device-number", fakeimds.Fault{Body: "<html>", Times: 1 + r.IntN(5)})
			case 11:
				m.imds.Fault("", fakeimds.Fault{})
			}
		}
		for range 1 + r.IntN(4) { // pods come and go
			m.sync()
			m.now = m.now.Add(syncApart + time.Duration(r.IntN(600))*time.Millisecond)
		}
		if step%50 == 0 {
			m.now = m.now.Add(time.Duration(r.IntN(90)) * time.Second)
		}
	}
	most := m.judgeRate()
	t.Logf("%d requests in %s; most of those again in 10 s: %d", len(m.imds.Log()), m.now.Sub(begin), most)
	if most > 50 {
		t.Errorf("%d requests in 10 s, want 50 at most", most)
	}
}

// Fifteen ENIs, each pending for something that the metadata cannot mend, or one for a value that never comes; an event
// every 100 ms.
func TestMetadataWorstCase(t *testing.T) {
	for name, tt := range map[string]struct {
		arrange func(m *metered)
		most    int // requests in the second minute
	}{
		"no link":    {func(*metered) {}, 6 * 29},
		"no index":   {func(m *metered) { m.list(1, func(e *fakeimds.ENI) { e.DeviceIndex = 0 }) }, 5 * 60},
		"not listed": {func(m *metered) { m.imds.Detach(mac(1).String()) }, 5 * 60},
		"all not listed": {func(m *metered) {
			m.imds.Apply(fakeimds.State{ENIs: []fakeimds.ENI{{ID: eniID(0).String(), MAC: mac(0).String(), Primary: true, SubnetID: subnet(0).String(),
				IPv4s: []string{"10.0.1.1"}, SubnetIPv4CIDR: "10.0.0.0/16"}}})
		}, 60},
		"no service":      {func(m *metered) { m.imds.Fault("", fakeimds.Fault{Status: http.StatusInternalServerError}) }, 60},
		"one is nonsense": {func(m *metered) { m.imds.Fault(imdsMACs+mac(1).String()+"/subnet-id", fakeimds.Fault{Body: "<html>"}) }, 5 * 60},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMetered(t, 15)
			tt.arrange(m)
			for e := range 15 {
				m.declare(fmt.Sprintf("n%d", e+1), e+1)
			}
			minute := func() int {
				before := len(m.imds.Log())
				for range int(time.Minute / (2 * syncApart)) {
					m.sync()
					m.now = m.now.Add(2 * syncApart)
				}
				return len(m.imds.Log()) - before
			}
			first, second := minute(), minute()
			t.Logf("%d requests in the first minute, %d in the second", first, second)
			if first > 16*eniRequests+3+29+2*60 || second > tt.most {
				t.Errorf("%d requests in the first minute, %d in the second, want %d there", first, second, tt.most)
			}
		})
	}
}

// However long a device waited, it is ready within a second or an eighth of the wait after the metadata list it and its
// index.
func TestMetadataHotPlug(t *testing.T) {
	for _, lag := range []time.Duration{0, 2 * time.Second, 20 * time.Second} {
		m := newMetered(t, 14)
		m.declare("a", 15)
		m.now = m.now.Add(time.Hour)
		m.settle()
		m.host.ours[15] = true
		m.plug(15, "ena")
		m.list(15, func(e *fakeimds.ENI) { e.AppearsAfter, e.IndexAfter = fakeimds.Duration(lag), fakeimds.Duration(lag) })
		begin, p := m.now, pace{}
		for {
			out := m.sync()
			if m.inventory().Devices[0].Phase == nodestate.PhaseReady {
				break
			}
			if m.now = m.now.Add(p.next(out)); m.now.Sub(begin) > time.Minute {
				t.Fatalf("not ready within a minute, with a lag of %s: %+v", lag, m.inventory())
			}
		}
		late := m.now.Sub(begin) - lag
		t.Logf("lag %s: %s later", lag, late)
		if late > max(time.Second, lag/4) {
			t.Errorf("ready %s after the metadata have it, which lagged %s", late, lag)
		}
	}
}

// Several devices plugged in at once do not take each other's requests. Each is ready soon after the metadata list it
// and its index.
func TestMetadataHotPlugs(t *testing.T) {
	lags := []struct{ listed, index time.Duration }{
		{}, {listed: time.Second}, {index: 3 * time.Second}, {listed: 3 * time.Second, index: 6 * time.Second}, {listed: 6 * time.Second, index: 6 * time.Second},
		{listed: 9 * time.Second, index: 15 * time.Second},
	}
	m := newMetered(t, 1)
	for i, lag := range lags {
		e := 2 + i
		m.declare(fmt.Sprintf("n%d", e), e)
		m.host.ours[e] = true
		m.plug(e, "ena")
		m.list(e, func(entry *fakeimds.ENI) {
			entry.AppearsAfter, entry.IndexAfter = fakeimds.Duration(lag.listed), fakeimds.Duration(lag.index)
		})
	}
	begin, p, ready := m.now, pace{}, map[string]bool{}
	for len(ready) < len(lags) {
		out := m.sync()
		for _, d := range m.inventory().Devices {
			if d.Phase != nodestate.PhaseReady || ready[d.NodeENI] {
				continue
			}
			ready[d.NodeENI] = true
			lag := lags[d.DeviceIndex-2]
			late := m.now.Sub(begin) - max(lag.listed, lag.index)
			if t.Logf("lags %+v: %s later", lag, late); late > 2*time.Second {
				t.Errorf("ready %s after the metadata have it, which lagged %+v", late, lag)
			}
		}
		if m.now.Sub(begin) > time.Minute {
			t.Fatalf("only %v are ready within a minute", ready)
		}
		m.now = m.now.Add(p.next(out))
	}
}

// A senseless value is named with its key; its ENI's row stays, and other ENIs are not affected.
func TestMetadataSenseless(t *testing.T) {
	m := newMetered(t, 2)
	for e := 1; e <= 2; e++ {
		m.host.ours[e] = true
		m.plug(e, "ena")
		m.declare(fmt.Sprintf("n%d", e), e)
	}
	m.settle()
	before := fmt.Sprint(m.inventory().Devices)
	bad := func(key string) {
		m.imds.Fault(imdsMACs+mac(1).String()+"/"+key, fakeimds.Fault{Body: "<html>"})
	}
	for _, key := range []string{"interface-id", "local-ipv4s", "device-number"} {
		bad(key)
		m.logged()
		for _, how := range []string{"running", "started again"} {
			m.now = m.now.Add(11 * time.Minute) // everything is read again
			if how == "started again" {
				m.start()
				m.daemon.Metadata = awsnode.New(awsnode.Config{Endpoint: m.imds.URL, Now: m.tell})
			}
			for range 5 {
				m.sync()
				m.now = m.now.Add(10 * time.Second)
			}
			inv := m.inventory()
			if got := fmt.Sprint(inv.Devices); got != before {
				t.Errorf("%s, %s: rows\n%s, want\n%s", key, how, got, before)
			}
			want := `the instance metadata has the senseless value "<html>" for network/interfaces/macs/` + mac(1).String() + "/" + key + "; what was known of " +
				"this ENI before still holds"
			if len(inv.Problems) != 1 || inv.Problems[0].Reason != "MetadataSenseless" || inv.Problems[0].Device != eniID(1).String() ||
				inv.Problems[0].Message != want {
				t.Errorf("%s, %s: problems %+v, want %s", key, how, inv.Problems, want)
			}
		}
		m.imds.Fault(imdsMACs+mac(1).String()+"/"+key, fakeimds.Fault{})
		m.now = m.now.Add(time.Hour)
		m.settle()
		m.expect([]string{"n1 eth1 ready", "n2 eth2 ready"}, nil, nil)
	}
	m.imds.Fault(imdsMACs, fakeimds.Fault{Body: "<html> <body>"})
	m.now = m.now.Add(time.Hour)
	m.sync()
	if got := m.inventory().Problems; len(got) != 1 || got[0].Reason != "MetadataUnreadable" ||
		!strings.Contains(got[0].Message, `"<html> <body>" for network/interfaces/macs/`) || strings.Contains(got[0].Message, "hop limit") {
		t.Errorf("problems %+v", got)
	}
	m.imds.Fault(imdsMACs, fakeimds.Fault{Status: http.StatusInternalServerError})
	m.now = m.now.Add(time.Hour)
	m.sync()
	if got := m.inventory().Problems; len(got) != 1 || !strings.Contains(got[0].Message, "hop limit") {
		t.Errorf("problems %+v", got)
	}
}

func TestMendable(t *testing.T) {
	whole := nodestate.Device{ENIID: eniID(1), MAC: mac(1), DeviceIndex: 1, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.16/28")}}
	for name, tt := range map[string]struct {
		edit func(d *nodestate.Device)
		want bool
	}{
		"whole":             {func(*nodestate.Device) {}, false},
		"no ENI":            {func(d *nodestate.Device) { d.ENIID = "" }, true},
		"no MAC":            {func(d *nodestate.Device) { d.MAC = "" }, true},
		"no index":          {func(d *nodestate.Device) { d.DeviceIndex = 0 }, true},
		"no address":        {func(d *nodestate.Device) { d.Prefixes = nil }, true},
		"ready, no address": {func(d *nodestate.Device) { d.Phase, d.Prefixes = nodestate.PhaseReady, nil }, true},
		"no link":           {func(d *nodestate.Device) { d.PCIAddress, d.InterfaceName = "", "" }, false},
		"drains":            {func(d *nodestate.Device) { d.Phase, d.Prefixes = nodestate.PhaseDraining, nil }, false},
	} {
		d := whole
		d.Phase = nodestate.PhasePending
		tt.edit(&d)
		if got := mendable(&d); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
