// Package show prints the state of nodes for people: on the node itself, and from outside by
// kubectl. It does not know the source of a state, and compiles on every system.
//
// The default view has lines of at most Columns characters. Long names lose their
// middle there. The wide view has more columns and loses nothing.
package show

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Columns is the longest line of the default view, in characters.
const Columns = 100

// Node is the state of one node. A zero field means that the source does not know it.
type Node struct {
	Name string
	// Changed is when the state last changed.
	Changed time.Time
	// Source says in one sentence where the state comes from.
	Source string
	// Outdated says in one sentence why nothing of the state holds; "" if it does.
	Outdated string
	Devices  []Device
	Pods     []Pod
	Pools    []Pool
	Offered  []Offered
	Slots    []Slot
	// Facts are printed behind the tables, in this order.
	Facts    []Fact
	Problems []Problem
	// DevicePlugin is how the SR-IOV device plugin stands to its config, or the state of the daemon's own offer.
	DevicePlugin string
}

// Device is one row of a node's inventory.
type Device struct {
	ENIID, NodeENI, MAC, PCIAddress, Link, Driver, SubnetID, Resource, Phase string
	// Index and Card are EC2's device index and network card; -1 when not known.
	Index, Card         int
	Addresses, Prefixes []string
	// MTU is the one asked for; 0 for none.
	MTU int
}

// Pod is a pod's hold on a device: one attachment, or an allocation by the kubelet.
type Pod struct {
	PCIAddress string
	// Name is namespace/name, or the container's id if the runtime named no pod.
	Name, UID, ContainerID string
	// Link is the interface's name in the pod.
	Link string
	// Addresses are the pod's on this device.
	Addresses []string
	// Mode is exclusive or shared, State one of the States.
	Mode, State string
}

// The values of Pod.State.
const (
	// Attached: the pod has its interface.
	Attached = "attached"
	// Changing: an ADD or a DEL is at work, or was cut off.
	Changing = "changing"
	// Allocated: the kubelet gave the device to a container, and no attachment shows it.
	Allocated = "allocated"
	// Unknown: there is a record of it that cannot be read.
	Unknown = "unknown"
)

// Pool is one family of an ENI's addresses for pods that share the ENI.
type Pool struct {
	ENIID, Family                   string
	Free, Leased, Cooling, Retiring int
}

// Slot is an entry of the lifecycle controller's list for the node. Wanted is Attached or Released, and Released says that the daemon has
// released it. Phase, Reason and Message are the controller's.
type Slot struct {
	Slot, NodeENI, ENIID, Wanted, Phase, Reason, Message string
	Released                                             bool
}

// Offered is a resource that the daemon itself offers to the kubelet.
type Offered struct {
	Resource           string
	Registered         bool
	Healthy, Unhealthy int
}

// OfferFact is how the node's devices are offered, such as "deviceplugin, Offered, 2 resources". Wanted, state and message may be "".
func OfferFact(mode, wanted, state, message string, resources int) Fact {
	parts := []string{cmp.Or(mode, "mode not known")}
	if state != "" {
		parts = append(parts, state)
	}
	if wanted != "" && wanted != mode {
		parts = append(parts, "wanted: "+wanted)
	}
	switch resources {
	case 0:
	case 1:
		parts = append(parts, "1 resource")
	default:
		parts = append(parts, strconv.Itoa(resources)+" resources")
	}
	text := strings.Join(parts, ", ")
	if message != "" {
		text += ": " + message
	}
	return Fact{Name: "Offer", Text: text}
}

// Fact is a line about the node that is in no table.
type Fact struct{ Name, Text string }

// Problem keeps devices from being as declared.
type Problem struct{ Reason, NodeENI, Device, Message string }

// Print writes one node in full.
func (n Node) Print(out io.Writer, wide bool) error {
	var b strings.Builder
	head := "Node " + n.Name
	if !n.Changed.IsZero() {
		head += ", last change " + n.Changed.UTC().Format(time.RFC3339)
	}
	for _, line := range []string{head, n.Outdated, n.Source} {
		if line != "" {
			paragraph(&b, "", "  ", line)
		}
	}
	b.WriteByte('\n')
	n.devices(&b, wide)
	if n.Outdated == "" {
		n.pods(&b, wide)
		n.pools(&b, wide)
		n.offered(&b, wide)
		n.slots(&b, wide)
	}
	n.facts(&b)
	b.WriteByte('\n')
	if len(n.Problems) == 0 {
		b.WriteString("No problems.\n")
	} else {
		b.WriteString("Problems:\n")
	}
	for _, p := range n.Problems {
		paragraph(&b, "  ", "    ", p.String())
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// String is the problem in one line.
func (p Problem) String() string {
	about := p.Reason
	for _, part := range []string{p.NodeENI, p.Device} {
		if part != "" {
			about += " " + part
		}
	}
	return about + ": " + p.Message
}

func (n Node) devices(b *strings.Builder, wide bool) {
	switch {
	case len(n.Devices) > 0:
		deviceTable(n.Devices).render(b, wide)
	case len(n.Problems) > 0:
		b.WriteString("No devices. The problems below may be the cause.\n")
	default:
		b.WriteString("No devices: no NodeENI declares an ENI of this node.\n")
	}
}

func deviceTable(devices []Device) *table {
	t := &table{columns: []column{
		{head: "DEVICE"}, {head: "NODEENI", least: 8}, {head: "PCI"}, {head: "LINK", least: 10},
		{head: "ADDRESSES", least: 15, short: list, cheap: firstItem}, {head: "RESOURCE", least: 8, short: resource, cheap: bareName}, {head: "PHASE"},
		{head: "DRIVER", wide: true}, {head: "MAC", wide: true}, {head: "INDEX", wide: true}, {head: "CARD", wide: true}, {head: "SUBNET", wide: true},
		{head: "PREFIXES", wide: true}, {head: "MTU", wide: true},
	}}
	for _, d := range devices {
		mtu := ""
		if d.MTU != 0 {
			mtu = strconv.Itoa(d.MTU)
		}
		t.add(d.ENIID, d.NodeENI, d.PCIAddress, d.link(), strings.Join(d.Addresses, ","), d.Resource, d.Phase,
			d.Driver, d.MAC, known(d.Index), known(d.Card), d.SubnetID, strings.Join(d.Prefixes, ","), mtu)
	}
	return t
}

// link is the interface's name in the host, or the driver if the host sees no interface.
func (d Device) link() string {
	if d.Link == "" && d.Driver != "" {
		return "(" + d.Driver + ")"
	}
	return d.Link
}

// known is an index of EC2, "" if it is not known.
func known(index int) string {
	if index < 0 {
		return ""
	}
	return strconv.Itoa(index)
}

// pods has a line for each hold on a device of the node.
func (n Node) pods(b *strings.Builder, wide bool) {
	t := &table{columns: []column{
		{head: "DEVICE"}, {head: "POD", least: 16}, {head: "LINK", least: 8, optional: true}, {head: "ADDRESSES", least: 18, short: list, cheap: firstItem,
			optional: true},
		{head: "STATE", optional: true}, {head: "MODE", wide: true, optional: true}, {head: "POD UID", wide: true, optional: true},
		{head: "CONTAINER ID", wide: true, optional: true},
	}}
	for _, d := range n.Devices {
		for _, p := range n.heldBy(d) {
			t.add(cmp.Or(d.ENIID, d.PCIAddress), p.Name, p.Link, strings.Join(p.Addresses, ","), p.State, p.Mode, p.UID, p.ContainerID)
		}
	}
	if len(t.rows) > 0 {
		b.WriteString("\nPods:\n")
		t.render(b, wide)
	}
}

// heldBy returns the holds on a device, without the allocation of a pod that also has an attachment.
func (n Node) heldBy(d Device) []Pod {
	var held []Pod
	for _, p := range n.Pods {
		if p.PCIAddress != d.PCIAddress || d.PCIAddress == "" {
			continue
		}
		if p.State == Allocated && slices.ContainsFunc(n.Pods, func(o Pod) bool { return o.PCIAddress == p.PCIAddress && o.Name == p.Name && o.State != Allocated }) {
			continue
		}
		held = append(held, p)
	}
	return held
}

func (n Node) pools(b *strings.Builder, wide bool) {
	if len(n.Pools) == 0 {
		return
	}
	b.WriteString("\nAddresses for pods that share an ENI:\n")
	t := &table{columns: []column{{head: "DEVICE"}, {head: "FAMILY"}, {head: "FREE"}, {head: "LEASED"}, {head: "COOLING"}, {head: "RETIRING"}}}
	for _, p := range n.Pools {
		t.add(p.ENIID, p.Family, many(p.Free), strconv.Itoa(p.Leased), strconv.Itoa(p.Cooling), strconv.Itoa(p.Retiring))
	}
	t.render(b, wide)
}

func (n Node) offered(b *strings.Builder, wide bool) {
	if len(n.Offered) == 0 {
		return
	}
	b.WriteString("\nResources that multi-enid offers to the kubelet:\n")
	t := &table{columns: []column{{head: "RESOURCE", least: 8, short: resource, cheap: bareName}, {head: "REGISTERED"}, {head: "HEALTHY"}, {head: "UNHEALTHY"}}}
	for _, o := range n.Offered {
		registered := "no"
		if o.Registered {
			registered = "yes"
		}
		t.add(o.Resource, registered, strconv.Itoa(o.Healthy), strconv.Itoa(o.Unhealthy))
	}
	t.render(b, wide)
}

func (n Node) slots(b *strings.Builder, wide bool) {
	if len(n.Slots) == 0 {
		return
	}
	b.WriteString("\nSlots of the controller:\n")
	t := &table{columns: []column{
		{head: "SLOT"}, {head: "NODEENI", least: 8}, {head: "DEVICE"}, {head: "WANTED"}, {head: "PHASE"}, {head: "REASON", optional: true},
		{head: "RELEASED", optional: true}, {head: "MESSAGE", wide: true, optional: true},
	}}
	for _, s := range n.Slots {
		released := ""
		if s.Released {
			released = "yes"
		}
		t.add(s.Slot, s.NodeENI, s.ENIID, s.Wanted, s.Phase, s.Reason, released, s.Message)
	}
	t.render(b, wide)
}

// many writes a count, and a large one as ">1M".
func many(n int) string {
	if n > 1<<20 {
		return ">1M"
	}
	return strconv.Itoa(n)
}

func (n Node) facts(b *strings.Builder) {
	if len(n.Facts) > 0 {
		b.WriteByte('\n')
	}
	indent := 0
	for _, f := range n.Facts {
		indent = max(indent, len(f.Name)+len(": "))
	}
	for _, f := range n.Facts {
		name := f.Name + ":"
		paragraph(b, name+strings.Repeat(" ", indent-len(name)), strings.Repeat(" ", indent), f.Text)
	}
}

// PrintNodes writes one line for each node.
func PrintNodes(out io.Writer, nodes []Node, wide bool) error {
	t := &table{columns: []column{
		{head: "NODE", least: 16}, {head: "READY"}, {head: "PODS"}, {head: "PROBLEMS"}, {head: "DEVICE PLUGIN"},
		{head: "REASONS", least: 12, short: list, cheap: firstItem},
	}}
	for _, n := range nodes {
		ready, pods := 0, 0
		for _, d := range n.Devices {
			if d.Phase == "ready" {
				ready++
			}
			pods += len(n.heldBy(d))
		}
		var reasons []string
		for _, p := range n.Problems {
			if !slices.Contains(reasons, p.Reason) {
				reasons = append(reasons, p.Reason)
			}
		}
		t.add(n.Name, strconv.Itoa(ready)+"/"+strconv.Itoa(len(n.Devices)), strconv.Itoa(pods), strconv.Itoa(len(n.Problems)), n.DevicePlugin,
			strings.Join(reasons, ","))
	}
	return t.write(out, wide)
}

// Hold is a device that a pod has, and the device's node.
type Hold struct {
	Node string
	Device
	Pod string
}

// PrintHolds writes one line for each.
func PrintHolds(out io.Writer, holds []Hold, wide bool) error {
	t := &table{columns: []column{
		{head: "POD", least: 16}, {head: "NODE", least: 12}, {head: "DEVICE"}, {head: "NODEENI", least: 8}, {head: "PCI"}, {head: "PHASE"},
		{head: "LINK", wide: true}, {head: "DRIVER", wide: true}, {head: "RESOURCE", wide: true}, {head: "ADDRESSES", wide: true}, {head: "SUBNET", wide: true},
	}}
	for _, h := range holds {
		t.add(h.Pod, h.Node, h.ENIID, h.NodeENI, h.PCIAddress, h.Phase, h.Link, h.Driver, h.Resource, strings.Join(h.Addresses, ","), h.SubnetID)
	}
	return t.write(out, wide)
}
