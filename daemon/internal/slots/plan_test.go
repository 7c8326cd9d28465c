package slots

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

func slotAt(id string, exact int) Slot {
	return Slot{ID: ID(id), NodeENI: NodeENI{Name: "e-" + id}, Node: "n", Instance: "i-1", Subnet: "subnet-" + id, Exact: exact}
}

// at is an ENI on i-1; words are "primary", "ours=ID" or "no_manage".
func at(id string, card, index int, words ...string) vpc.Interface {
	e := vpc.Interface{ID: "eni-" + id, SubnetID: "subnet-" + id, Tags: map[string]string{},
		Attachment: &vpc.Attachment{Instance: "i-1", NetworkCard: card, DeviceIndex: index, Status: "attached"}}
	for _, w := range words {
		if own, ok := strings.CutPrefix(w, "ours="); ok {
			e.Tags[TagSlot], e.Tags[TagCluster], e.Tags[vpc.NodeENITag] = own, "c", "e-"+own
		} else {
			e.Tags[TagNoManage] = "true"
		}
	}
	return e
}

func available(id string) vpc.Interface {
	e := at(id, 0, 0, "ours="+id)
	e.Attachment = nil
	return e
}

var (
	primary   = at("primary", 0, 0)
	elsewhere = with(at("a", 0, 1, "no_manage"), func(a *vpc.Attachment) { a.Instance = "i-2" })
	detached  = with(at("x", 0, 2), func(a *vpc.Attachment) { a.Status = "detached" })
)

func withID(id string, e vpc.Interface) vpc.Interface { e.ID = id; return e }

func with(e vpc.Interface, change func(*vpc.Attachment)) vpc.Interface {
	change(e.Attachment)
	return e
}

func card(s Slot, card int) Slot { s.Card = card; return s }
func anyCard(s Slot) Slot        { s.AnyCard = true; return s }
func inA(s Slot) Slot            { s.Subnet = "subnet-a"; return s }

var planCases = []struct {
	name   string
	limits []int // of the cards
	most   int   // ENIs; the sum of limits where it is 0
	slots  []Slot
	there  []vpc.Interface
	// recorded are external ENIs of an earlier plan.
	recorded map[ID]string
	want     string // slot=card/index, ext: external
	faults   map[string]string
	says     []string
}{
	{name: "exact", limits: []int{4}, slots: []Slot{slotAt("a", 1), slotAt("b", 2)}, there: []vpc.Interface{primary}, want: "a=0/1 b=0/2"},
	{name: "exact ones go first", limits: []int{8}, slots: []Slot{slotAt("a", 1), slotAt("b", 1), slotAt("c", 2), slotAt("d", 3)},
		there: []vpc.Interface{primary}, want: "a=0/1 b=0/4 c=0/2 d=0/3"},
	{name: "taken by somebody", limits: []int{8}, slots: []Slot{slotAt("a", 1), slotAt("b", 2)}, there: []vpc.Interface{primary, at("x", 0, 1)},
		want: "a=0/3 b=0/2"},
	{name: "an ENI stays where it is", limits: []int{8}, slots: []Slot{slotAt("a", 1), slotAt("b", 1)},
		there: []vpc.Interface{primary, at("b", 0, 5, "ours=b"), at("x", 0, 1)},
		want:  "a=0/2 b=0/5"},
	{name: "its index is free again, and it stays", limits: []int{8}, slots: []Slot{slotAt("b", 1)}, there: []vpc.Interface{primary, at("b", 0, 5, "ours=b")},
		want: "b=0/5"},
	{name: "full", limits: []int{2}, slots: []Slot{slotAt("a", 1)}, there: []vpc.Interface{primary, at("x", 0, 1, "ours=old")}, want: "a=0/1",
		faults: map[string]string{"a": NoFreeInterface}, says: []string{"takes 2 ENIs", "eni-x (e-old)", "eni-primary (no NodeENI)", "larger type"}},
	{name: "room for one more", limits: []int{3}, slots: []Slot{slotAt("b", 2), slotAt("a", 1)}, there: []vpc.Interface{primary, at("x", 0, 3)},
		want:   "b=0/2 a=0/1",
		faults: map[string]string{"b": NoFreeInterface}},
	{name: "those with an ENI come first", limits: []int{3}, slots: []Slot{slotAt("a", 1), slotAt("b", 2)},
		there: []vpc.Interface{primary, at("x", 0, 3), available("b")},
		want:  "a=0/1 b=0/2", faults: map[string]string{"a": NoFreeInterface}},
	{name: "the whole instance is full before its cards", limits: []int{4, 4}, most: 2, slots: []Slot{anyCard(slotAt("a", 1))},
		there: []vpc.Interface{primary, at("x", 0, 1)},
		want:  "a=0/1", faults: map[string]string{"a": NoFreeInterface}},
	{name: "the instance is full with what is promised", limits: []int{4, 4}, most: 2, slots: []Slot{slotAt("a", 1), slotAt("b", 2)},
		there: []vpc.Interface{primary}, want: "a=0/1 b=0/2", faults: map[string]string{"b": NoFreeInterface}},
	{name: "a detached ENI has no place", limits: []int{2}, slots: []Slot{slotAt("a", 2)}, there: []vpc.Interface{primary, detached}, want: "a=0/2"},
	{name: "an ENI of another instance neither", limits: []int{2}, slots: []Slot{slotAt("a", 1)}, there: []vpc.Interface{primary, elsewhere}, want: "a=0/1"},
	{name: "indexes are a card's", limits: []int{2, 2}, slots: []Slot{slotAt("a", 1), card(slotAt("b", 1), 1)}, there: []vpc.Interface{primary},
		want: "a=0/1 b=1/1"},
	{name: "a card is full", limits: []int{4, 1}, slots: []Slot{card(slotAt("a", 1), 1)}, there: []vpc.Interface{primary, at("x", 1, 1)}, want: "a=1/1",
		faults: map[string]string{"a": NoFreeInterface}, says: []string{"network card 1", "eni-x", AnnotationNetworkCard}},
	{name: "no such card", limits: []int{4, 4}, slots: []Slot{card(slotAt("a", 1), 2)}, there: []vpc.Interface{primary}, want: "a=2/1",
		faults: map[string]string{"a": InvalidOption}, says: []string{AnnotationNetworkCard + " 2", "2 network cards"}},
	{name: "the emptiest card, the first of them", limits: []int{3, 3, 3},
		slots: []Slot{anyCard(slotAt("a", 1)), anyCard(slotAt("b", 1)), anyCard(slotAt("c", 1))},
		there: []vpc.Interface{primary}, want: "a=1/1 b=2/1 c=0/1"},
	{name: "external", limits: []int{2}, slots: []Slot{slotAt("a", 1)}, there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")}, want: "a=0/1ext"},
	{name: "external needs no_manage", limits: []int{3}, slots: []Slot{slotAt("a", 1)}, there: []vpc.Interface{primary, at("a", 0, 1)}, want: "a=0/2"},
	{name: "external needs the index", limits: []int{3}, slots: []Slot{slotAt("a", 1)}, there: []vpc.Interface{primary, at("a", 0, 2, "no_manage")},
		want: "a=0/1"},
	{name: "external needs the card", limits: []int{3, 3}, slots: []Slot{slotAt("a", 1)}, there: []vpc.Interface{primary, at("a", 1, 1, "no_manage")},
		want: "a=0/1"},
	{name: "external on any card", limits: []int{3, 3}, slots: []Slot{anyCard(slotAt("a", 1))}, there: []vpc.Interface{primary, at("a", 1, 1, "no_manage")},
		want: "a=1/1ext"},
	{name: "external needs the subnet", limits: []int{3}, slots: []Slot{slotAt("b", 1)}, there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")},
		want: "b=0/2"},
	{name: "another's of ours is not external", limits: []int{3}, slots: []Slot{slotAt("a", 1)},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage", "ours=z")},
		want:  "a=0/2"},
	{name: "an ENI of its own counts before an external one", limits: []int{3}, slots: []Slot{slotAt("a", 1)},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage"), available("a")}, want: "a=0/2"},
	{name: "an external ENI satisfies one slot", limits: []int{4}, slots: []Slot{inA(slotAt("b", 1)), slotAt("a", 1), inA(slotAt("c", 1))},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")}, want: "b=0/2 a=0/1ext c=0/3"},
	{name: "it stays with the slot that had it", limits: []int{4}, slots: []Slot{slotAt("a", 1), inA(slotAt("b", 1))},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")}, recorded: map[ID]string{"b": "eni-a"}, want: "a=0/2 b=0/1ext"},
	{name: "two slots had it", limits: []int{4}, slots: []Slot{inA(slotAt("c", 1)), inA(slotAt("b", 1)), slotAt("a", 1)},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")}, recorded: map[ID]string{"b": "eni-a", "c": "eni-a"}, want: "c=0/3 b=0/1ext a=0/2"},
	{name: "the slot that had it wants another index", limits: []int{4}, slots: []Slot{slotAt("a", 1), inA(slotAt("b", 2))},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")}, recorded: map[ID]string{"b": "eni-a"}, want: "a=0/1ext b=0/2"},
	{name: "the slot that had it has its own", limits: []int{4}, slots: []Slot{slotAt("a", 1), inA(slotAt("b", 1))},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage"), at("b", 0, 2, "ours=b")}, recorded: map[ID]string{"b": "eni-a"}, want: "a=0/1ext b=0/2"},
	{name: "no place for the second slot", limits: []int{2}, slots: []Slot{slotAt("a", 1), inA(slotAt("b", 1))},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage")}, want: "a=0/1ext b=0/1", faults: map[string]string{"b": NoFreeInterface}},
	{name: "one external ENI for each slot, on any card", limits: []int{3, 3}, slots: []Slot{anyCard(slotAt("a", 1)), anyCard(inA(slotAt("b", 1)))},
		there: []vpc.Interface{primary, at("a", 0, 1, "no_manage"), withID("eni-z", at("a", 1, 1, "no_manage"))}, want: "a=0/1ext b=1/1ext"},
	{name: "nothing", limits: []int{3}},
}

func TestPlanNode(t *testing.T) {
	for _, tt := range planCases {
		t.Run(tt.name, func(t *testing.T) {
			kind := vpc.InstanceType{Name: "t", Interfaces: tt.most}
			for i, n := range tt.limits {
				kind.Cards = append(kind.Cards, vpc.Card{Index: i, Interfaces: n})
				if tt.most == 0 {
					kind.Interfaces += n
				}
			}
			p := PlanNode(tt.slots, tt.there, tt.recorded, kind)
			var got []string
			for _, s := range p.Slots {
				text := fmt.Sprintf("%s=%d/%d", s.ID, s.Card, s.Index)
				if _, ok := p.External[s.ID]; ok {
					text += "ext"
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			faults := map[string]string{}
			for id, f := range p.Faults {
				faults[string(id)] = f.Reason
				checkFault(t, []Fault{f}, f.Reason, tt.says)
			}
			if diff := cmp.Diff(tt.faults, faults, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			slices.Reverse(tt.there)
			again := PlanNode(tt.slots, tt.there, tt.recorded, kind)
			if diff := cmp.Diff(p, again); diff != "" {
				t.Errorf("the order of the answers matters (-first +second):\n%s", diff)
			}
		})
	}
}

func TestForeign(t *testing.T) {
	public := at("a", 0, 1, "no_manage")
	public.Tags[vpc.NodeENITag] = "e"
	for name, tt := range map[string]struct {
		eni  vpc.Interface
		want bool
	}{
		"somebody else's":         {at("a", 0, 1, "no_manage"), true},
		"without no_manage":       {at("a", 0, 1), false},
		"ours":                    {at("a", 0, 1, "no_manage", "ours=z"), false},
		"the public controller's": {public, false},
	} {
		if got := Foreign(tt.eni); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPlanIsTheSameInEachOrder(t *testing.T) {
	a, b, c, d := slotAt("a", 1), slotAt("b", 1), slotAt("c", 2), inA(slotAt("d", 1))
	kind := vpc.InstanceType{Interfaces: 8, Cards: []vpc.Card{{Interfaces: 8}}}
	there := []vpc.Interface{at("a", 0, 1, "no_manage")}
	type result struct {
		index    map[ID]int
		external map[ID]vpc.Interface
	}
	var first *result
	for _, order := range [][]Slot{{a, b, c, d}, {d, c, b, a}, {b, d, a, c}} {
		p := PlanNode(order, there, nil, kind)
		got := result{map[ID]int{}, p.External}
		for _, s := range p.Slots {
			got.index[s.ID] = s.Index
		}
		if first == nil {
			first = &got
		}
		if diff := cmp.Diff(*first, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("(-first +other):\n%s", diff)
		}
	}
}
