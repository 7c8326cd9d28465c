package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Offer serves devices to the kubelet. Its methods return at once.
type Offer interface {
	// Set has the kubelet told of these resources and devices, and of no other, in the background.
	Set(names []device.ResourceName, devices []offer.Device)
	// Linger goes on with the resources that the kubelet listens to, with these devices, but asks it to listen no more. The
	// SR-IOV device plugin may offer others besides.
	Linger(devices, others []offer.Device)
	// Check has the resources registered again that the kubelet has dropped unseen.
	Check()
	// Detach has the end of another plugin leave the resources as they are, until Detach(false).
	Detach(on bool)
	State() offer.State
}

// Wish says who is to offer the devices.
type Wish struct {
	Mode nodestate.OfferMode
	// Known is false while the Node's label cannot be read: then nothing changes hands.
	Known bool
	// Invalid is the value of the Node's label if nobody understands it: then nothing changes hands. Else "".
	Invalid string
}

// offering has the daemon itself offer the devices, in the mode deviceplugin, and change between the modes. The zero
// value without a server does nothing.
//
// Every state is in the checkpoint before it shows, so a daemon that is killed goes on from there:
//
//	mode          names   the devices are offered by
//	""            none    the SR-IOV device plugin, by the config
//	deviceplugin  some    the daemon, and the SR-IOV device plugin until our entries have left its config
//	pcidp         some    the daemon, and the SR-IOV device plugin once it serves our entries again
type offering struct {
	server  Offer
	wish    func() Wish
	files   *checkpoint.Files
	kubelet *kubeletCache
	log     logrus.FieldLogger

	before    []offer.Device // the listed devices
	handed    []offer.Device // the devices that the SR-IOV device plugin was last verified to offer, while connections linger
	awaited   []offer.Device // the devices that it is to offer besides, and is not verified to
	resumed   []offer.Device // the devices that the last daemon listed, for resumeTime after the first Step
	started   time.Time      // the time of the first Step
	conflicts []pcidp.Conflict
	unsure    error // why conflicts are not known; nil if they are
	refused   bool  // a takeover is refused because of conflicts
	unasked   bool  // a device is not added because the kubelet cannot be asked
	verified  bool  // the kubelet was asked about the devices of the last daemon
	told      bool  // the server has the devices of the last Step
	accepted  int   // the registrations that were reported
	problems  []problem.Finding
}

func (o *offering) memory() nodestate.OfferMemory { return o.files.Checkpoint.Offer }

// serves says whether the daemon offers devices, or is about to.
func (o *offering) serves() bool {
	return o.server != nil && (o.memory().Mode == nodestate.OfferDevicePlugin || len(o.memory().Names) > 0)
}

// takes says whether the mode is deviceplugin, so that the config is to be without our entries.
func (o *offering) takes() bool {
	return o.server != nil && o.memory().Mode == nodestate.OfferDevicePlugin
}

// entries returns the entries that the config is to have: all, unless the daemon takes them over. Then those that are
// there stay until the kubelet has each resource from the daemon, with its devices.
func (o *offering) entries(all []pcidp.Entry) []pcidp.Entry {
	switch {
	case !o.takes():
		return all
	case !o.unasked && o.server.State().Registered():
		return nil
	}
	return slices.DeleteFunc(all, func(e pcidp.Entry) bool { return !slices.Contains(o.files.Checkpoint.OwnedResources, e.Resource) })
}

// withdrawn says that the kubelet has been sent the devices of the last Step, as far as it listens.
func (o *offering) withdrawn() bool {
	return o.server == nil || (o.told || !o.serves()) && o.server.State().Sent
}

// giving says whether a container may just have been given a device that drains.
func (o *offering) giving(src inventory.Sources) bool {
	given := o.given(src)
	return slices.ContainsFunc(src.Checkpoint.Devices, func(d nodestate.CheckpointDevice) bool {
		return d.Phase == nodestate.PhaseDraining && given[d.PCIAddress] != ""
	})
}

// resume serves the devices of this boot's inventory, as far as sysfs agrees. functions is nil if it cannot be read:
// then each resource is served without a healthy device.
func (o *offering) resume(bootID string, functions map[device.PCIAddress]sysfs.PCIFunction) {
	if !o.serves() {
		return
	}
	m, in := o.memory(), offer.Input{Functions: functions, Names: o.memory().Names}
	in.Twice = func(device.ResourceName, device.PCIAddress) bool { return true } // nothing is added yet
	if inv := &o.files.Inventory; inv.BootID == bootID {
		in.Rows = inv.Devices
	}
	if o.kubelet.from != nil {
		in.Kubelet = &inventory.Fact[inventory.Kubelet]{}
	}
	in.Before = offer.Offered(in.Rows, m.Names, m.Withheld)
	out := offer.Desired(in)
	o.before, o.resumed = out.Devices, out.Devices
	o.server.Set(m.Names, out.Devices)
}

// Step changes the mode if that is wanted, and has the kubelet offered the devices. config is the request for the
// config's file, with the entries that the devices need there.
func (o *offering) Step(ctx context.Context, src inventory.Sources, devices []nodestate.Device, config *pluginConfig, out *Outcome) {
	o.problems, o.refused, o.told = nil, false, false
	if o.server == nil {
		return
	}
	wish := o.wish()
	if wish.Invalid != "" {
		o.problems = append(o.problems, problem.On("", reason.OfferLabelInvalid,
			"label networking.k8s.aws/offer of the Node is %q, so the mode stays as it is; set it to pcidp or deviceplugin, or remove it", wish.Invalid))
	}
	switch {
	case !wish.Known || wish.Invalid != "":
	case wish.Mode == nodestate.OfferDevicePlugin && o.memory().Mode != nodestate.OfferDevicePlugin:
		o.take(devices, config, src, out)
	case wish.Mode != nodestate.OfferDevicePlugin && o.memory().Mode == nodestate.OfferDevicePlugin:
		o.giveBack(config, out)
	}
	if o.serves() {
		o.findConflicts(devices, config, src)
		o.offer(ctx, src, devices, config, out)
	}
	o.reportConflicts()
	o.reportFaults()
}

// withhold tells the kubelet which devices have become unfit, before anything waits for the disk.
func (o *offering) withhold(src inventory.Sources, rows []nodestate.Device) {
	if !o.serves() {
		return
	}
	names, next, lost := o.memory().Names, slices.Clone(o.before), false
	fit := offer.Desired(offer.Input{
		Rows: rows, Functions: src.Functions.Value, Names: names, Before: o.before, Kubelet: &inventory.Fact[inventory.Kubelet]{},
	}).Devices
	for i := range next {
		was := &next[i]
		j := slices.IndexFunc(fit, func(d offer.Device) bool { return d.ID == was.ID && d.Resource == was.Resource })
		if was.Healthy() && j >= 0 && !fit[j].Healthy() {
			was.Unfit, lost = fit[j].Unfit, true
		}
	}
	if lost {
		o.before = next
		o.server.Set(names, next)
	}
}

// take begins a takeover, unless the config's other entries offer a resource or a device of ours.
func (o *offering) take(devices []nodestate.Device, config *pluginConfig, src inventory.Sources, out *Outcome) {
	o.findConflicts(devices, config, src)
	if o.refused = len(o.conflicts) > 0 || o.unsure != nil; o.refused {
		return
	}
	if o.begin(config, out, func(m *nodestate.OfferMemory) {
		*m = nodestate.OfferMemory{Mode: nodestate.OfferDevicePlugin, Changing: true, Names: m.Names}
	}) {
		o.verified = false // the SR-IOV device plugin gave devices to pods
		o.log.Info("the daemon begins to offer the devices to the kubelet itself")
	}
}

// giveBack begins to hand the devices back to the SR-IOV device plugin.
func (o *offering) giveBack(config *pluginConfig, out *Outcome) {
	if o.begin(config, out, func(m *nodestate.OfferMemory) { m.Mode, m.Changing = nodestate.OfferPCIDP, true }) {
		o.log.Info("the daemon begins to hand the devices back to the SR-IOV device plugin")
	}
}

// begin saves that a change between the modes begins, and says whether it does. Earlier failures of the device plugin's
// restart do not count then.
func (o *offering) begin(config *pluginConfig, out *Outcome, change func(*nodestate.OfferMemory)) bool {
	if !o.save(out, change) {
		return false
	}
	config.plugin.Nudge()
	return true
}

// save changes the memory, and says whether that is on the disk.
func (o *offering) save(out *Outcome, change func(*nodestate.OfferMemory)) bool {
	err := o.files.Save(func(c *nodestate.Checkpoint) { change(&c.Offer) })
	if err != nil {
		out.Unsettled = true
		o.problems = append(o.problems, checkpoint.Unwritable(err))
	}
	return err == nil
}

// offer has the kubelet offered the devices. Names are in the checkpoint before the kubelet knows them.
func (o *offering) offer(ctx context.Context, src inventory.Sources, devices []nodestate.Device, config *pluginConfig, out *Outcome) {
	in := offer.Input{Rows: devices, Functions: src.Functions.Value, Names: o.memory().Names, Before: o.before, Recorded: recorded(src), Twice: o.twice,
		Given: o.given(src)}
	if o.kubelet.from != nil {
		in.Kubelet = &inventory.Fact[inventory.Kubelet]{}
	}
	next := offer.Desired(in)
	owned := o.owned()
	takingOver := o.kubelet.from != nil && o.takes() && o.memory().Changing // until its end the other plugin may give a device away, too
	asked := next.Asks || len(owned) > 0 || o.kubelet.from != nil && !o.verified || takingOver
	o.unasked = false
	if asked {
		known, err := o.kubelet.ask(ctx)
		switch in.NoPods = errors.Is(err, inventory.ErrNoPods); {
		case in.NoPods:
			next = offer.Desired(in)
		case err == nil:
			*in.Kubelet = inventory.Known(known)
			in.Names = slices.Concat(in.Names, owned, o.orphaned(known, devices, config.foreign))
			o.verified = true
			next = offer.Desired(in)
		default:
			out.Unsettled, o.unasked = true, len(next.Withheld)+len(owned) > 0 || takingOver
			o.problems = append(o.problems, problem.New(reason.KubeletUnreadable,
				"the kubelet's podresources socket cannot be asked, so the offer stays as it is, and nothing is added; check --podresources-socket", err))
		}
	}
	withheld := addresses(next.Withheld)
	both := slices.Compact(slices.Sorted(slices.Values(slices.Concat(o.memory().Names, next.Names))))
	if !slices.Equal(both, o.memory().Names) || !slices.Equal(withheld, o.memory().Withheld) {
		if !o.save(out, func(m *nodestate.OfferMemory) { m.Names, m.Withheld = both, withheld }) {
			return
		}
	}
	o.before, o.told = next.Devices, true
	o.server.Detach(o.takes() && o.memory().Changing)
	o.server.Set(next.Names, next.Devices)
	if !slices.Equal(next.Names, o.memory().Names) {
		o.save(out, func(m *nodestate.OfferMemory) { m.Names = next.Names })
	}
	switch {
	case hasRowless(next, devices):
		out.sooner(holderPoll)
	case next.Later:
		out.sooner(laterPoll)
	}
}

// orphaned returns the resources that nobody offers, and under which a pod has a device of ours.
func (o *offering) orphaned(known inventory.Kubelet, devices []nodestate.Device, foreign []device.ResourceName) (names []device.ResourceName) {
	for name, held := range known.Held {
		ours := slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.PCIAddress != "" && slices.Contains(held, d.PCIAddress) })
		if ours && !slices.Contains(o.memory().Names, name) && !slices.Contains(foreign, name) && !slices.Contains(o.files.Checkpoint.OwnedResources, name) {
			names = append(names, name)
		}
	}
	return names
}

// owned returns the resources that the SR-IOV device plugin still offers by our entries, and the daemon does not. A pod may have a
// device of one that no NodeENI names any more.
func (o *offering) owned() []device.ResourceName {
	if !o.takes() || o.kubelet.from == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(o.files.Checkpoint.OwnedResources), func(name device.ResourceName) bool {
		return slices.Contains(o.memory().Names, name)
	})
}

// laterPoll is how often the kubelet is asked for the end of a pod that keeps a device from being offered.
const laterPoll = 10 * time.Second

// resumeTime is how long after the start a device counts as given to a container by the last daemon.
const resumeTime = 10 * time.Second

// given returns the devices that a container may have been given a moment ago, by this daemon or the last one.
func (o *offering) given(src inventory.Sources) map[device.PCIAddress]device.ResourceName {
	if o.server == nil {
		return nil
	}
	given := o.server.State().Given
	if o.started.IsZero() {
		o.started = src.Now
	}
	if src.Now.Sub(o.started) >= resumeTime {
		o.resumed = nil
	}
	for _, d := range o.resumed {
		if given == nil {
			given = map[device.PCIAddress]device.ResourceName{}
		}
		if d.Healthy() && given[d.ID] == "" {
			given[d.ID] = d.Resource
		}
	}
	return given
}

// hasRowless says whether a device is listed only because a pod holds it.
func hasRowless(o offer.Offer, rows []nodestate.Device) bool {
	return slices.ContainsFunc(o.Devices, func(d offer.Device) bool {
		return !slices.ContainsFunc(rows, func(r nodestate.Device) bool { return r.PCIAddress == d.ID && r.ResourceName == d.Resource })
	})
}

func addresses(devices []offer.Device) []device.PCIAddress {
	var all []device.PCIAddress
	for _, d := range devices {
		all = append(all, d.ID)
	}
	slices.Sort(all)
	return all
}

func recorded(src inventory.Sources) map[device.PCIAddress]bool {
	all := map[device.PCIAddress]bool{}
	for i := range src.Attachments.Value {
		if a := &src.Attachments.Value[i]; a.Holds(src.BootID) {
			all[a.Device.PCIAddress] = true
		}
	}
	return all
}
