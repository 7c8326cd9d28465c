package reconcile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

const modelSlots = 3

var errModel = errors.New("out of order")

type modelPod struct {
	instance uint64
	driver   string
	rec      *nodestate.Record // nil before its ADD
	dead     bool              // the kubelet has forgotten it, and DEL has not run
}

type world struct {
	*testNode
	rng   *rand.Rand
	story []string

	mu       sync.Mutex
	declared [modelSlots + 1]string // the spec's variant; "" for no NodeENI
	pods     [modelSlots + 1]*modelPod
	plugged  [modelSlots + 1]bool
	ages     int    // how many ENIs have taken another's place
	served   []byte // the config that the device plugin has read
	last     string // hash of the last restart
	changed  bool   // the config has, since then
	config   []byte
	hang     map[int]chan struct{}
	blind    bool // sysfs cannot be read
	unread   bool // nor the NodeENIs
}

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

var modelSpecs = map[string][]string{
	"kernel": {},
	"sriov":  {fastDPDK},
	"other":  {"dpdkResourceName: intel.com/other"},
	"dpdk":   {fastDPDK, "enableDPDK: true"},
	"dpdk2":  {"dpdkResourceName: intel.com/other", "enableDPDK: true"},
	"uio":    {fastDPDK, "enableDPDK: true", "dpdkDriver: uio_pci_generic"},
}

// event returns its name, or "" if it cannot happen now.
func (w *world) event() string {
	e := 1 + w.rng.IntN(modelSlots)
	name := string(rune('a' - 1 + e))
	switch w.rng.IntN(27) {
	case 0, 1, 2, 3, 4:
		if w.unread {
			return ""
		}
		spec := []string{"kernel", "sriov", "other", "dpdk", "dpdk", "dpdk2", "uio"}[w.rng.IntN(7)]
		w.declare(name, e, modelSpecs[spec]...)
		w.declared[e] = spec
		return fmt.Sprintf("declare %d %s", e, spec)
	case 5, 6:
		if w.declared[e] == "" || w.unread {
			return ""
		}
		w.undeclare(name)
		w.declared[e] = ""
		return fmt.Sprintf("remove %d", e)
	case 7:
		return w.unplugOrPlug(e)
	case 8, 9, 10:
		return w.allocate(e)
	case 11, 12, 13:
		return w.add(e)
	case 14, 15, 16:
		return w.del(e)
	case 17:
		w.start()
		return "daemon restarts"
	case 18:
		return w.toggleSource()
	case 19:
		return w.toggleDriver(e)
	case 20:
		return w.togglePlugin()
	case 21, 22:
		return w.edit()
	case 23:
		return w.otherPrefix()
	default:
		d := []time.Duration{time.Second, 5 * time.Second, 40 * time.Second}[w.rng.IntN(3)]
		w.now = w.now.Add(d)
		return fmt.Sprintf("%s pass", d)
	}
}

func (w *world) unplugOrPlug(e int) string {
	if w.blind || w.hang[e] != nil {
		return ""
	}
	what, same := "plug", false
	if w.plugged[e] {
		w.unplug(e)
		switch w.rng.IntN(3) {
		case 0:
			w.plugged[e] = false
			return fmt.Sprintf("unplug %d", e)
		case 1:
			what = "replace"
		default: // another function, and the same ENI
			what, same = "unplug and plug", true
		}
	}
	if !same {
		w.ages++
		entry := w.imds.enis[e]
		entry.ID, entry.MAC = eniID(e+256*w.ages), mac(e+256*w.ages)
		w.macs[e], w.imds.enis[e] = entry.MAC, entry
	}
	// A bind leaves its interface's name behind.
	if err := os.Remove(w.path("sys/class/net", ifname(e))); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.Fatal(err)
	}
	w.plug(e, "ena")
	w.plugged[e] = true
	return fmt.Sprintf("%s %d", what, e)
}

func (w *world) allocate(e int) string {
	w.refresh()
	for _, offered := range w.kubelet.devices.Allocatable {
		if slices.Contains(offered, pci(e)) && w.pods[e] == nil && w.kubelet.err == nil {
			w.pods[e] = &modelPod{instance: w.instance(e), driver: w.driver(e)}
			return fmt.Sprintf("allocate %d", e)
		}
	}
	return ""
}

func (w *world) driver(e int) string { return w.testNode.driver(pci(e)) }

func (w *world) add(e int) string {
	p := w.pods[e]
	if p == nil || p.rec != nil || p.dead || w.blind || !w.plugged[e] || w.instance(e) != p.instance || w.hang[e] != nil {
		return ""
	}
	if w.driver(e) != p.driver {
		w.Errorf("the driver of %d was changed from %q to %q, which the kubelet had allocated", e, p.driver, w.driver(e))
		return ""
	}
	mode := nodestate.ModeDPDK
	if p.driver == "ena" {
		mode = nodestate.ModeExclusive
	}
	rec, err := w.records().Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprintf("c%d", e), IfName: "net1"}, BootID: w.boot, Mode: mode,
		Device: nodestate.AttachedDevice{PCIAddress: pci(e), MAC: w.imds.enis[e].MAC, ENIID: w.imds.enis[e].ID, Instance: p.instance},
	})
	w.must(err)
	rec.State = nodestate.StateComplete
	w.must(rec.Save())
	p.rec = rec
	delete(w.host.links, e)
	return fmt.Sprintf("ADD %d (%s)", e, p.driver)
}

// del ends a pod with its DEL, or without, which then comes later.
func (w *world) del(e int) string {
	p := w.pods[e]
	if p == nil {
		return ""
	}
	if p.rec != nil && !p.dead && w.rng.IntN(3) == 0 {
		p.dead = true
		return fmt.Sprintf("pod of %d ends without DEL", e)
	}
	if p.rec != nil {
		if w.blind {
			return ""
		}
		if p.driver == "ena" && w.plugged[e] && w.instance(e) == p.instance {
			w.addLink(e, ifname(e))
		}
		w.must(p.rec.Remove())
	}
	w.pods[e] = nil
	return fmt.Sprintf("DEL %d", e)
}

func (w *world) toggleSource() string {
	flip := func(err *error) { *err = map[bool]error{true: errModel}[*err == nil] }
	switch w.rng.IntN(5) {
	case 0:
		flip(&w.imds.err)
		return "IMDS on/off"
	case 1:
		flip(&w.host.err)
		return "netlink on/off"
	case 2:
		flip(&w.kubelet.err)
		return "kubelet on/off"
	case 3:
		w.away("sys/bus/pci/devices", &w.blind)
		return "sysfs on/off"
	default:
		w.away("nodeenis", &w.unread)
		return "NodeENIs on/off"
	}
}

func (w *world) away(path string, gone *bool) {
	from, to := w.path(path), w.path(path)+"-away"
	if *gone {
		from, to = to, from
	}
	w.must(os.Rename(from, to))
	*gone = !*gone
}

func (w *world) toggleDriver(e int) string {
	f := w.drivers
	f.mu.Lock()
	defer f.mu.Unlock()
	switch w.rng.IntN(3) {
	case 0:
		f.fail[pci(e)] = map[bool]error{true: errModel}[f.fail[pci(e)] == nil]
		return fmt.Sprintf("binds of %d fail or do not", e)
	case 1:
		f.open[pci(e)] = !f.open[pci(e)]
		return fmt.Sprintf("%d is open: %t", e, f.open[pci(e)])
	default:
		if w.blind {
			return ""
		}
		if w.hang[e] == nil {
			w.hang[e] = make(chan struct{})
			f.hang[pci(e)] = w.hang[e]
			return fmt.Sprintf("binds of %d hang", e)
		}
		w.unhang(e)
		return fmt.Sprintf("binds of %d hang no more", e)
	}
}

// unhang lets the binds of a function go on. The caller has the drivers' lock.
func (w *world) unhang(e int) {
	f := w.drivers
	close(w.hang[e])
	delete(f.hang, pci(e))
	delete(w.hang, e)
	f.mu.Unlock()
	w.patiently("end of a bind that hung", func() bool {
		f.mu.Lock()
		hung := f.hung[pci(e)]
		f.mu.Unlock()
		return !hung && w.free(pci(e))
	})
	f.mu.Lock()
}

func (w *world) togglePlugin() string {
	w.restarts.mu.Lock()
	defer w.restarts.mu.Unlock()
	if w.restarts.err == nil {
		w.restarts.err = pluginrestart.ErrNoDevicePlugin
		w.served = nil
		return "device plugin removed"
	}
	w.restarts.err = nil
	w.served = w.read()
	w.daemon.Nudge()
	return "device plugin installed"
}

func (w *world) read() []byte {
	content, err := os.ReadFile(w.path("pcidp/config.json"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.Fatal(err)
	}
	return content
}

// The device plugin accepts the lasting entries with every prefix and device, and ends on others.
var (
	lasting = []string{
		`{"resourceName":"numa0-pf1","selectors":{"vendors":["8086"]}}`,
		`{"resourceName":"` + strings.Repeat("long", 20) + `","selectors":{"vendors":["8086"]}}`,
	}
	peoples = append([]string{
		`{"resourceName":"people","selectors":{"vendors":["8086"]}}`,
		`{"resourceName":"people","resourcePrefix":"openshift.io","selectors":{"vendors":["15b3"]}}`,
		`{"resourceName":"no.name","selectors":{"vendors":["8086"]}}`,
		`{"resourceName":"aux","deviceType":"auxNetDevice","selectors":[{"pfNames":["p0"]}]}`,
		`{"resourceName":"nothing"}`,
	}, lasting...)
)

// edit adds or removes a person's entry for another device.
func (w *world) edit() string {
	var config struct {
		ResourceList []json.RawMessage `json:"resourceList"`
	}
	if json.Unmarshal(w.read(), &config) != nil {
		return ""
	}
	entry, all := peoples[w.rng.IntN(len(peoples))], len(config.ResourceList)
	config.ResourceList = slices.DeleteFunc(config.ResourceList, func(e json.RawMessage) bool {
		var b bytes.Buffer
		return json.Compact(&b, e) == nil && b.String() == entry
	})
	if all == len(config.ResourceList) {
		config.ResourceList = append(config.ResourceList, json.RawMessage(entry))
	}
	if len(config.ResourceList) == 0 {
		return ""
	}
	content, err := json.Marshal(config)
	w.must(err)
	w.write(string(content), "pcidp/config.json")
	return "config edited: " + entry
}

func (w *world) otherPrefix() string {
	w.restarts.mu.Lock()
	w.restarts.prefixes = [][]string{{"intel.com"}, {"openshift.io"}, {"intel.com", "openshift.io"}}[w.rng.IntN(3)]
	w.restarts.mu.Unlock()
	w.daemon.Nudge()
	return fmt.Sprintf("device plugin with prefixes %q", w.restarts.prefixes)
}

func (w *world) judgePeople(before []byte) {
	now := w.read()
	for _, e := range lasting {
		name, _, _ := strings.Cut(e, ",")
		if _, name, _ = strings.Cut(name, ":"); bytes.Contains(before, []byte(name)) && !bytes.Contains(now, []byte(name)) {
			w.Errorf("people's entry %s is gone from\n%s", name, now)
		}
	}
}

func (w *world) refresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := inventory.Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{}, Allocated: map[device.PCIAddress][]inventory.Container{}}
	if len(w.served) > 0 && !w.blind {
		for name, offered := range dpmodel.Judge(w.served, w.machine()).Resources {
			k.Allocatable[device.ResourceName(name)] = offered
		}
	}
	for e, p := range w.pods {
		if p != nil && !p.dead {
			k.Allocated[pci(e)] = []inventory.Container{{Namespace: "ns", Pod: fmt.Sprint("p", e), Container: "c"}}
		}
	}
	w.kubelet.devices = k
}

// restarted has the device plugin start and read its config.
func (w *world) restarted(want pluginrestart.Wanted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if want.Hash == w.last && !w.changed {
		w.Errorf("device plugin restarted for the config that it serves")
	}
	w.served, w.last, w.changed = w.read(), want.Hash, false
}
