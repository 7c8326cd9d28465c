package nodeeni

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// stateWith is an ENINodeState with a spec.
func stateWith(spec string) string {
	return `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"ENINodeState","metadata":{"uid":"s1",%s},"spec":` + spec + `,"status":{"problemCount":0}}`
}

func listWith(entries ...string) string {
	return stateWith(`{"protocol":1,"attachments":[` + strings.Join(entries, ",") + `]}`)
}

// entryWith is an entry of slot n of the NodeENI "a"; more are further members, with a comma at the end.
func entryWith(n int, wanted, more string) string {
	return fmt.Sprintf(`{"slot":"%016x",%s"nodeENI":{"name":"a","uid":"u1","generation":3},"instanceID":"i-0123456789abcdef0","subnetID":"subnet-%017x",
		"subnetCIDR":"10.0.2.0/24","eniID":"eni-%017x","mac":"02:00:00:00:00:%02x","addresses":["10.0.2.15","2001:db8::5"],"networkCard":0,"deviceIndex":%d,
		"wanted":"%s","phase":"Attached"}`, n, more, n, n, n, n, wanted)
}

func runEntries(t *testing.T, s *apiServer, edit ...func(*Options)) *running {
	o := Options{Lookup: inventory.LookupEntries, Now: time.Now}
	for _, f := range edit {
		f(&o)
	}
	return runWith(t, s, o)
}

// runWith runs a Source that must not ask for NodeENIs where the controller's list counts.
func runWith(t *testing.T, s *apiServer, o Options) *running {
	t.Helper()
	s.do(func() { s.entries = o.Lookup == inventory.LookupEntries })
	o.Log = fakekube.Quiet()
	config := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {token: t}}]\ncontexts: "+
		"[{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", s.url)
	c, err := client.Connect(client.Config{NodeName: "node-a", Kubeconfig: fakekube.WriteKubeconfig(t, config), UserAgent: "multi-enid/test",
		Log: fakekube.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Source: New(c, o), t: t}
	r.retry.Duration, r.retry.Cap = time.Millisecond, 50*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		r.Run(ctx, func() { r.wakes.Add(1) }, func() { r.nodeHas.Add(1) })
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// saysEntries is the list in short: slots that are wanted, those to release in brackets, and what is not known.
func (r *running) saysEntries() string {
	snap, err := r.List()
	if err != nil {
		return "unknown"
	}
	if snap.Silent != "" {
		return "silent"
	}
	var out []string
	for _, e := range snap.Entries {
		text := strings.TrimLeft(e.Slot, "0")
		switch {
		case e.Released:
			text = "(" + text + ")"
		case e.Withheld:
			text += "-"
		}
		out = append(out, text)
	}
	for _, eni := range snap.UnreadENIs {
		out = append(out, "eni?"+strings.TrimLeft(eni.String()[4:], "0"))
	}
	for _, name := range snap.Unread {
		out = append(out, "nodeeni?"+name)
	}
	if !snap.Complete {
		out = append(out, "and more")
	}
	return strings.Join(out, " ")
}

func (r *running) untilEntries(want string) {
	r.t.Helper()
	r.until(fmt.Sprintf("the list to say %q, it says %q", want, r.saysEntries()), func() bool { return r.saysEntries() == want })
}

func TestOwnStateFollows(t *testing.T) {
	eachKind(t, func(t *testing.T, s *apiServer) {
		s.put(pathNodes, "node-a", nodeX)
		gone := make(chan struct{}, 8)
		r := runEntries(t, s, func(o *Options) { o.StateGone = func() { gone <- struct{}{} } })
		r.untilEntries("silent") // there is no object
		<-gone
		s.put(pathStates, "node-a", stateWith(`{}`))
		r.Reported(nil, 0)
		s.put(pathStates, "node-a", listWith())
		r.untilEntries("")
		s.put(pathStates, "node-a", listWith(entryWith(1, "Attached", ""), entryWith(2, "Attached", "")))
		r.untilEntries("1 2")
		r.Reported([]v1alpha1.ReleasedENI{{Slot: "0000000000000002", ENIID: "eni-00000000000000002"}}, 0)
		r.untilEntries("1 2-") // until the status no longer says so
		r.Reported(nil, 0)
		r.untilEntries("1 2")
		s.put(pathStates, "node-a", listWith(entryWith(1, "Released", ""), entryWith(2, "Attached", "")))
		r.untilEntries("(1) 2")
		s.put(pathStates, "node-a", stateWith(`{"protocol":2}`))
		r.untilEntries("silent")
		s.put(pathStates, "node-a", stateWith(`{"protocol":"one"}`))
		r.untilEntries("silent")
		s.put(pathStates, "node-a", listWith(entryWith(2, "Attached", "")))
		r.untilEntries("2")
		s.forget() // a restart of the API server changes nothing
		s.refuseWith(http.StatusServiceUnavailable, pathStates, pathNodes)
		r.untilReason("Unreachable")
		r.untilEntries("2")
		s.recover()
		r.untilReason("")
		s.remove(pathStates, "node-a")
		r.untilEntries("silent")
		<-gone
		if snap, _ := r.List(); snap.Complete || snap.Lookup != inventory.LookupEntries {
			t.Errorf("without the object: %+v, want an incomplete list", snap)
		}
	})
}

// TestOwnStateUnreported: before the first status of this protocol the list counts as unknown.
func TestOwnStateUnreported(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	s.put(pathStates, "node-a", listWith(entryWith(1, "Attached", "")))
	r := runEntries(t, s)
	r.untilEntries("silent")
	r.Reported(nil, 0)
	r.untilEntries("1")
}

// TestOwnStateSilentFor: the time of silence begins when the list was last known.
func TestOwnStateSilentFor(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	begun := time.Now()
	var passed atomic.Int64
	add := func(d time.Duration) { passed.Add(int64(d)) }
	r := runEntries(t, s, func(o *Options) { o.Now = func() time.Time { return begun.Add(time.Duration(passed.Load())) } })
	r.untilEntries("silent")
	add(time.Minute)
	s.put(pathStates, "node-a", stateWith(`{}`)) // still silent
	r.until("the object", func() bool { snap, _ := r.List(); return strings.Contains(snap.Silent, "has not written spec") })
	if snap, _ := r.List(); snap.SilentFor != time.Minute {
		t.Errorf("silent for %v, want 1m", snap.SilentFor)
	}
	r.Reported(nil, 0)
	s.put(pathStates, "node-a", listWith())
	r.untilEntries("")
	add(time.Hour)
	s.put(pathStates, "node-a", stateWith(`{}`))
	r.untilEntries("silent")
	if snap, _ := r.List(); snap.SilentFor != 0 {
		t.Errorf("silent for %v, want 0", snap.SilentFor)
	}
}

// TestOwnStatusWakesNobody: the daemon's own status and the resource version are no news.
func TestOwnStatusWakesNobody(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	s.put(pathStates, "node-a", listWith(entryWith(1, "Attached", "")))
	r := runEntries(t, s)
	r.Reported(nil, 0)
	r.untilEntries("1")
	r.untilReason("")
	wakes := r.wakes.Load()
	s.mu.Lock()
	asked := s.asked
	s.mu.Unlock()
	for i := range 20 {
		s.put(pathStates, "node-a", strings.Replace(listWith(entryWith(1, "Attached", "")), `"problemCount":0`, fmt.Sprintf(`"problemCount":%d`, i), 1))
	}
	s.put(pathStates, "node-a", listWith(entryWith(2, "Attached", ""))) // seen after all of these
	r.untilEntries("2")
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := r.wakes.Load() - wakes; got != 1 || s.asked != asked {
		t.Errorf("%d wakes and %d requests for 20 statuses and one spec, want 1 and 0", got, s.asked-asked)
	}
}

func TestEntryUnreadable(t *testing.T) {
	good := entryWith(1, "Attached", "")
	for name, tt := range map[string]struct{ bad, want, says string }{
		"a type":               {strings.Replace(good, `"deviceIndex":1`, `"deviceIndex":"one"`, 1), "2 eni?1", "deviceIndex"},
		"wanted":               {strings.Replace(good, `"Attached","phase"`, `"Perhaps","phase"`, 1), "2 eni?1", `wanted "Perhaps"`},
		"a MAC":                {strings.Replace(good, `"02:`, `"x:`, 1), "2 eni?1", "mac"},
		"its ENI":              {strings.Replace(good, `"eni-00000000000000001"`, `"eni-x"`, 1), "2 eni?1", `eniID "eni-x"`}, // as before
		"its ENI and its slot": {strings.NewReplacer(`"eni-00000000000000001"`, `"eni-x"`, `"0000000000000001"`, `7`).Replace(good), "2 nodeeni?a", "slot"},
		"no object":            {`7`, "2 and more", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t, true)
			s.put(pathNodes, "node-a", nodeX)
			s.put(pathStates, "node-a", listWith(good, entryWith(2, "Attached", "")))
			r := runEntries(t, s)
			r.Reported(nil, 0)
			r.untilEntries("1 2")
			s.put(pathStates, "node-a", listWith(tt.bad, entryWith(2, "Attached", "")))
			r.untilEntries(tt.want)
			snap, _ := r.List()
			if len(snap.Problems) != 1 || snap.Problems[0].Reason != "EntryUnreadable" || !strings.Contains(snap.Problems[0].Message, tt.says) {
				t.Errorf("problems %+v, want one that says %q", snap.Problems, tt.says)
			}
			s.put(pathStates, "node-a", listWith(good, entryWith(2, "Attached", "")))
			r.untilEntries("1 2")
		})
	}
}

func TestEntryValues(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	s.put(pathStates, "node-a", listWith(
		entryWith(1, "Attached", `"mtu":9001,"enableDPDK":true,"dpdkDriver":"vfio-pci","dpdkPCIAddress":"0000:00:07.0","resourceName":"intel.com/x",`+
			`"allowedNamespaces":"red","prefixes":["10.0.2.16/28"],"release":4,`),
		strings.Replace(entryWith(2, "Attached", ""), "i-0123456789abcdef0", "i-0fffffffffffffff0", 1)))
	r := runEntries(t, s, func(o *Options) { o.Instance = func() string { return "i-0123456789abcdef0" } })
	r.Reported(nil, 0)
	r.untilEntries("1") // the other one is an earlier instance's
	snap, _ := r.List()
	o, e := snap.Objects[0], snap.Entries[0]
	names, _ := o.AllowedNamespaces()
	if o.Name != "a" || o.UID != "u1" || o.Generation != 3 || o.Spec.MTU != 9001 || o.Spec.Case() != v1alpha1.Case3DPDK || o.Spec.DPDKDriver != "vfio-pci" ||
		o.Spec.DPDKPCIAddress != "0000:00:07.0" || o.Spec.DPDKResourceName != "intel.com/x" || !slices.Equal(names, []string{"red"}) || len(snap.Objects) != 1 {
		t.Errorf("NodeENIs %+v", snap.Objects)
	}
	var addresses []string
	for _, p := range append(e.ENI.Addresses, e.ENI.Prefixes...) {
		addresses = append(addresses, p.String())
	}
	if diff := cmp.Diff([]string{"10.0.2.15/24", "2001:db8::5/64", "10.0.2.16/28"}, addresses); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if e.ENI.ID != device.ENIID("eni-00000000000000001") || e.ENI.MAC != "02:00:00:00:00:01" || e.ENI.DeviceIndex != 1 || e.Phase != "Attached" || e.Release != 4 {
		t.Errorf("entry %+v", e)
	}
}

// TestSlotDrivers: doctor reads the own ENINodeState, and no NodeENI.
func TestSlotDrivers(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.do(func() { s.entries = true })
	config := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {token: t}}]\ncontexts: "+
		"[{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", s.url)
	c, err := client.Connect(client.Config{NodeName: "node-a", Kubeconfig: fakekube.WriteKubeconfig(t, config), UserAgent: "multi-enid/test",
		Log: fakekube.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := Slots(t.Context(), c); err != nil || !strings.Contains(snap.Silent, "there is no ENINodeState node-a") {
		t.Errorf("without the object: %+v, error %v", snap, err)
	}
	s.put(pathStates, "node-a", listWith(entryWith(1, "Attached", `"enableDPDK":true,`)))
	drivers, err := SlotDrivers(t.Context(), c)
	if diff := cmp.Diff(map[string][]string{"vfio-pci": {"a"}}, drivers); diff != "" || err != nil {
		t.Errorf("error %v, drivers (-want +got):\n%s", err, diff)
	}
}
