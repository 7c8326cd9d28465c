package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

var t0 = time.Unix(1_800_000_000, 0)

func slot() slots.Slot {
	return slots.Slot{
		ID: "0123456789abcdef", NodeENI: slots.NodeENI{Name: "e", UID: "u"}, Node: "n", Instance: "i-1", VPC: "vpc-1", Subnet: "subnet-1", SubnetCIDR: "10.0.1.0/24",
		Groups: []string{"sg-1"}, Exact: 1, Index: 2, Card: 3, Options: slots.Options{DeleteOnTermination: true},
	}
}

func says(kind vpc.EC2Kind, code, text string) error {
	return &vpc.EC2Error{Kind: kind, Code: code, Service: "EC2", Status: 400, Err: fmt.Errorf("call: %s: %s", code, text)}
}

const indexTaken = "Instance 'i-1' already has an interface attached at device index '2'."

var failureCases = []struct {
	name   string
	do     Action
	err    error
	reason string
	words  []string
	waits  []time.Duration // of failures in a row
	phase  Phase           // Blocked, or as it was
	look   bool            // EC2 is asked before the next act
	read   Action          // what else is read
}{
	{name: "too many calls", do: Create, err: says(vpc.EC2Throttled, "RequestLimitExceeded", "x"), reason: Throttled, words: []string{"CreateNetworkInterface"},
		waits: []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second}},
	{name: "no answer", do: Create, err: &vpc.EC2Error{Err: errors.New("timeout")}, look: true,
		waits: []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute}},
	{name: "no answer to a look", do: LookUp, err: &vpc.EC2Error{Err: errors.New("timeout")}, waits: []time.Duration{time.Second, 2 * time.Second}},
	{name: "not sent", do: Attach, err: &vpc.EC2Error{Kind: vpc.EC2NotSent, Err: errors.New("refused")}, waits: []time.Duration{time.Second, 2 * time.Second}},
	{name: "the lease is over", do: Attach, err: errors.New("not the leader"), waits: []time.Duration{time.Second, 2 * time.Second}},
	{name: "index taken", do: Attach, err: says(vpc.EC2Refused, "InvalidParameterValue", indexTaken), reason: IndexTaken, look: true, read: ReadNode,
		words: []string{"device index 2", "network card 3", "eni-9 (other)"}, waits: []time.Duration{time.Second, 2 * time.Second}},
	{name: "index taken, as EC2 also says it", do: Attach, err: says(vpc.EC2Refused, "InvalidParameterCombination", indexTaken), reason: IndexTaken, look: true,
		read: ReadNode, waits: []time.Duration{time.Second}},
	{name: "another word about an index", do: Attach, err: says(vpc.EC2Refused, "SomethingNew", "device index 99"), reason: Refused, look: true,
		waits: []time.Duration{5 * time.Second}},
	{name: "no room", do: Attach, err: says(vpc.EC2Limit, "AttachmentLimitExceeded", "x"), reason: slots.NoFreeInterface, phase: Blocked, look: true,
		read:  ReadNode,
		words: []string{"eni-9 (other)", "larger instance type"}, waits: []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute,
			10 * time.Minute}},
	{name: "instance not running", do: Attach, err: says(vpc.EC2Refused, "IncorrectInstanceState", "x"), reason: InstanceNotRunning, look: true,
		read:  ReadInstance,
		words: []string{"instance i-1"}, waits: []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute}},
	{name: "wrong state", do: Attach, err: says(vpc.EC2Refused, "IncorrectState", "x"), reason: InstanceNotRunning, look: true, read: ReadInstance,
		waits: []time.Duration{5 * time.Second}},
	{name: "instance unknown", do: Attach, err: says(vpc.EC2Refused, "InvalidInstanceID.NotFound", "x"), read: ReadInstance,
		waits: []time.Duration{10 * time.Second, 10 * time.Second}},
	{name: "in use", do: Attach, err: says(vpc.EC2Refused, "InvalidNetworkInterface.InUse", "x"), look: true,
		waits: []time.Duration{time.Second, 2 * time.Second}},
	{name: "in use at delete", do: Delete, err: says(vpc.EC2Refused, "InvalidParameterValue", "currently in use"), look: true,
		waits: []time.Duration{time.Second}},
	{name: "not permitted", do: Attach, err: says(vpc.EC2Refused, "OperationNotPermitted", "x"), reason: NotPermitted, phase: Blocked,
		words: []string{"eni-1", "AttachNetworkInterface"}, waits: []time.Duration{time.Hour, time.Hour}},
	{name: "subnet full", do: Create, err: says(vpc.EC2SubnetFull, "InsufficientFreeAddressesInSubnet", "x"), reason: SubnetFull, phase: Blocked,
		words: []string{"subnet-1 (10.0.1.0/24)"}, waits: []time.Duration{2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute}},
	{name: "no room for prefixes", do: Create, err: says(vpc.EC2SubnetFull, "InsufficientCidrBlocks", "x"), reason: SubnetFull, phase: Blocked,
		waits: []time.Duration{2 * time.Minute}},
	{name: "no subnet", do: Create, err: says(vpc.EC2Refused, "InvalidSubnetID.NotFound", "x"), reason: slots.InvalidSubnet, phase: Blocked,
		words: []string{"subnet subnet-1", "correct the subnet"}, waits: []time.Duration{5 * time.Minute, 5 * time.Minute}},
	{name: "no group", do: SetGroups, err: says(vpc.EC2Refused, "InvalidGroup.NotFound", "x"), reason: slots.InvalidSecurityGroup, phase: Blocked,
		words: []string{"sg-1", "vpc-1"}, waits: []time.Duration{5 * time.Minute, 5 * time.Minute}},
	{name: "no such group", do: Create, err: says(vpc.EC2Refused, "InvalidSecurityGroupID.NotFound", "x"), reason: slots.InvalidSecurityGroup, phase: Blocked,
		waits: []time.Duration{5 * time.Minute}},
	{name: "group of another VPC", do: Create, err: says(vpc.EC2Refused, "InvalidParameter", "two resources that belong to different networks"),
		reason: slots.InvalidSecurityGroup, phase: Blocked, waits: []time.Duration{5 * time.Minute}},
	{name: "forbidden", do: Delete, err: says(vpc.EC2Forbidden, "UnauthorizedOperation", "x"), reason: Forbidden, look: true,
		words: []string{"ec2:DeleteNetworkInterface", "deploy/iam/multi-enid-controller.json"}, waits: []time.Duration{5 * time.Minute, 5 * time.Minute}},
	{name: "forbidden to create", do: Create, err: says(vpc.EC2Forbidden, "UnauthorizedOperation", "x"), reason: Forbidden, phase: Blocked, look: true,
		words: []string{"ec2:CreateNetworkInterface"}, waits: []time.Duration{5 * time.Minute}},
	{name: "who is that", do: Create, err: says(vpc.EC2Unauthenticated, "AuthFailure", "x"), reason: Unauthenticated, phase: Blocked,
		words: []string{"EC2 does not know the access key"}, waits: []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute,
			5 * time.Minute}},
	{name: "other parameters", do: Create, err: says(vpc.EC2Refused, "IdempotentParameterMismatch", "x"), look: true, waits: []time.Duration{0, 0}},
	{name: "termination", do: SetTermination, err: says(vpc.EC2Refused, "IncorrectState", "x"), reason: TerminationFlag, look: true,
		words: []string{"eni-1", "stays attached"}, waits: []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
	{name: "something else", do: Attach, err: says(vpc.EC2Refused, "SomethingNew", "never seen"), reason: Refused, look: true,
		words: []string{"SomethingNew: never seen"},
		waits: []time.Duration{5 * time.Second, 10 * time.Second}},
	{name: "detach without an attachment", do: Detach, err: says(vpc.EC2Refused, "InvalidAttachmentID.NotFound", "x"), look: true,
		waits: []time.Duration{time.Second}},
	{name: "delete without an ENI", do: Delete, err: says(vpc.EC2Refused, "InvalidNetworkInterfaceID.NotFound", "x"), look: true,
		waits: []time.Duration{time.Second}},
}

func TestFailures(t *testing.T) {
	for _, tt := range failureCases {
		t.Run(tt.name, func(t *testing.T) {
			before := Memory{Attempt: 1, Request: "r", ENI: "eni-1", AttachmentID: "at-1", Phase: Attaching}
			st := Step{Do: tt.do, Slot: new(slot()), ENI: "eni-1", Attachment: "at-1", Phase: Attaching, note: note{holders: "eni-9 (other)"}}
			m := before
			for i, wait := range tt.waits {
				m = After(m, st, Result{Err: tt.err}, t0)
				if got := m.RetryAt.Sub(t0); got != wait {
					t.Errorf("failure %d waits %v, want %v", i+1, got, wait)
				}
			}
			if tt.reason == Forbidden && tt.do != Create {
				if m.Reason != "" {
					t.Errorf("reason %q before a look", m.Reason)
				}
				m = After(m, Step{Do: Describe, Slot: new(slot()), ENI: "eni-1", Phase: m.Phase}, Result{Interface: &vpc.Interface{ID: "eni-1"}}, t0)
			}
			if m.Reason != tt.reason {
				t.Errorf("reason %q, want %q", m.Reason, tt.reason)
			}
			for _, w := range tt.words {
				if !strings.Contains(m.Message, w) {
					t.Errorf("message %q lacks %q", m.Message, w)
				}
			}
			if (tt.phase == "") != (m.Phase == Attaching) || tt.phase != "" && m.Phase != tt.phase {
				t.Errorf("phase %s", m.Phase)
			}
			if m.lookAfter.IsZero() == tt.look {
				t.Errorf("look: %v", !tt.look)
			}
			if m.planAfter.IsZero() == (tt.read == ReadNode) || m.instanceAfter.IsZero() == (tt.read == ReadInstance) {
				t.Errorf("read: %v %v", m.planAfter, m.instanceAfter)
			}
			if m.ENI != "eni-1" || m.AttachmentID != "at-1" || m.Attempt != 1 || m.Request != "r" {
				t.Errorf("the failure has changed the memory: %+v", m)
			}
			m = After(m, st, Result{}, t0)
			if m.Failures != 0 || !m.RetryAt.IsZero() {
				t.Errorf("after a success: %d failures, %v", m.Failures, m.RetryAt)
			}
		})
	}
}

func TestTheThirdTakenIndexBlocks(t *testing.T) {
	err := says(vpc.EC2Refused, "InvalidParameterValue", "already has an interface attached at device index '2'.")
	st := Step{Do: Attach, Slot: new(slot()), Phase: Attaching}
	m := Memory{}
	for range 2 {
		m = After(m, st, Result{Err: err}, t0)
	}
	if m.Phase != Attaching {
		t.Errorf("phase %s after two", m.Phase)
	}
	for range 2 {
		m = After(m, st, Result{Err: err}, t0)
		if m.Phase != Blocked || m.Reason != IndexTaken || m.RetryAt.Sub(t0) != 5*time.Minute {
			t.Errorf("%s %s, again in %v", m.Phase, m.Reason, m.RetryAt.Sub(t0))
		}
	}
}

func TestAbsent(t *testing.T) {
	missing := says(vpc.EC2Refused, "InvalidNetworkInterfaceID.NotFound", "x")
	st := Step{Do: Describe, Slot: new(slot()), ENI: "eni-1"}
	after := func(m Memory, d time.Duration, err error) Memory {
		return After(m, st, Result{Err: err, Interface: &vpc.Interface{ID: "eni-1"}}, t0.Add(d))
	}
	old := Memory{Attempt: 1, Request: "r", ENI: "eni-1", AttachmentID: "at-1", Found: true}

	m := after(old, 0, missing)
	if m.ENI == "" || m.RetryAt.Sub(t0) != 10*time.Second {
		t.Fatalf("after one: %+v", m)
	}
	if early := after(m, 9*time.Second, missing); early.ENI == "" || early.RetryAt.Sub(t0) != 10*time.Second {
		t.Errorf("after two, 9 s apart: %+v", early)
	}
	if gone := after(m, 10*time.Second, missing); gone.ENI != "" || gone.AttachmentID != "" || gone.Request != "" || gone.Found ||
		gone.Attempt != 1 || gone.gone != "eni-1" {
		t.Errorf("after two, 10 s apart: %+v", gone)
	}
	if seen := after(after(m, 5*time.Second, nil), 10*time.Second, missing); seen.ENI == "" {
		t.Error("it was seen in between, and counts as absent")
	}

	young := After(Memory{Attempt: 1, Request: "r"}, Step{Do: Create, Slot: new(slot())}, Result{Interface: &vpc.Interface{ID: "eni-1"}}, t0)
	for _, d := range []time.Duration{0, 20 * time.Second, 59 * time.Second} {
		if young = after(young, d, missing); young.ENI == "" || !young.missingSince.IsZero() {
			t.Fatalf("%v after its creation: %+v", d, young)
		}
	}
	if young.RetryAt.Sub(t0) != 63*time.Second {
		t.Errorf("the third look waits until %v", young.RetryAt.Sub(t0))
	}
	if young = after(young, 60*time.Second, missing); young.missingSince.IsZero() {
		t.Error("after a minute it does not count")
	}
}

func TestInstanceGone(t *testing.T) {
	missing := says(vpc.EC2Refused, "InvalidInstanceID.NotFound", "x")
	st := Step{Do: ReadInstance, Slot: new(slot())}
	m := After(Memory{}, st, Result{Err: missing}, t0)
	if m.instanceGone {
		t.Error("after one answer")
	}
	if early := After(m, st, Result{Err: missing}, t0.Add(9*time.Second)); early.instanceGone {
		t.Error("after 9 s")
	}
	if seen := After(After(m, st, Result{}, t0), st, Result{Err: missing}, t0.Add(time.Minute)); seen.instanceGone {
		t.Error("it was seen in between")
	}
	if !After(m, st, Result{Err: missing}, t0.Add(10*time.Second)).instanceGone {
		t.Error("not after two answers")
	}
}

// TestForbiddenAboutGone: a policy that asks for tags forbids calls about things that are gone. Only a look tells.
func TestForbiddenAboutGone(t *testing.T) {
	denied := says(vpc.EC2Forbidden, "UnauthorizedOperation", "x")
	missing := says(vpc.EC2Refused, "InvalidNetworkInterfaceID.NotFound", "x")
	free := &vpc.Interface{ID: "eni-1", Status: "available"}
	attached := func(id, status string) *vpc.Interface {
		return &vpc.Interface{ID: "eni-1", Status: "in-use", Attachment: &vpc.Attachment{ID: id, Instance: "i-1", Status: status}}
	}
	for name, tt := range map[string]struct {
		do    Action
		shown *vpc.Interface
		want  bool
	}{
		"detach, still attached":     {Detach, attached("at-1", "attached"), true},
		"detach, detaching":          {Detach, attached("at-1", "detaching"), false},
		"detach, other attachment":   {Detach, attached("at-2", "attached"), false},
		"detach, free":               {Detach, free, false},
		"force, still attached":      {ForceDetach, attached("at-1", "attached"), true},
		"force, free":                {ForceDetach, free, false},
		"delete, still there":        {Delete, free, true},
		"attach, free":               {Attach, free, true},
		"attach, attached":           {Attach, attached("at-1", "attaching"), false},
		"termination, still there":   {SetTermination, attached("at-1", "attached"), true},
		"termination, free":          {SetTermination, free, false},
		"groups, still there":        {SetGroups, attached("at-1", "attached"), true},
		"source check, still there":  {SetSourceDestCheck, free, true},
		"tags of a public ENI there": {Tag, free, true},
	} {
		before := Memory{Attempt: 1, Request: "r", ENI: "eni-1", AttachmentID: "at-1"}
		st := Step{Do: tt.do, Slot: new(slot()), ENI: "eni-1", Attachment: "at-1", Phase: Draining}
		look := Step{Do: Describe, Slot: new(slot()), ENI: "eni-1", Phase: Draining}
		m := After(before, st, Result{Err: denied}, t0)
		if m.Reason != "" || m.Denied != Wait {
			t.Errorf("%s: %s of %s before a look", name, m.Reason, m.Denied)
		}
		seen := After(m, look, Result{Interface: tt.shown}, t0.Add(time.Second))
		if got := seen.Denied == tt.do; got != tt.want || (seen.Reason == Forbidden) != tt.want || seen.RetryAt.IsZero() == tt.want {
			t.Errorf("%s: denied %v, want %v: %+v", name, got, tt.want, seen)
		}
		if again := After(seen, Step{Do: Wait, Phase: Draining}, Result{}, t0.Add(2*time.Second)); again.Denied != Wait {
			t.Errorf("%s: denied once more", name)
		}
		gone := After(After(m, look, Result{Err: missing}, t0.Add(time.Second)), look, Result{Err: missing}, t0.Add(11*time.Second))
		if gone.ENI != "" || gone.Denied != Wait || gone.Reason != "" || gone.suspect != nil {
			t.Errorf("%s: gone: %+v", name, gone)
		}
	}
}

// TestTheReasonStays: while a failed call waits for its next try, looks do not hide why.
func TestTheReasonStays(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		reason string
	}{
		"no room":       {says(vpc.EC2Limit, "AttachmentLimitExceeded", "x"), slots.NoFreeInterface},
		"not permitted": {says(vpc.EC2Refused, "OperationNotPermitted", "x"), NotPermitted},
		"refused":       {says(vpc.EC2Refused, "SomethingNew", "x"), Refused},
	} {
		s := slot()
		e := vpc.Interface{ID: "eni-1", Status: "available", Tags: map[string]string{slots.TagSlot: string(s.ID)}, Groups: s.Groups}
		o := Observed{
			LookedAt: t0, Interfaces: []vpc.Interface{e}, Instance: &vpc.Instance{State: "running"}, InstanceAt: t0, PlannedAt: t0, Wanted: true,
			Node: Node{Exists: true, Ready: true},
		}
		m := Memory{Attempt: 1, Request: "r", ENI: "eni-1", Phase: Created, describedAt: t0}
		st := Next(&s, o, m, t0)
		if st.Do != Attach {
			t.Fatalf("%s: %s", name, st.Do)
		}
		m = After(m, st, Result{Err: tt.err}, t0)
		message := m.Message
		for i := range 6 {
			now := t0.Add(time.Duration(1+i) * time.Second)
			if st = Next(&s, o, m, now); st.Do.Mutates() || st.Reason != tt.reason || st.Message != message {
				t.Errorf("%s, step %d: %s with %q: %q", name, i, st.Do, st.Reason, st.Message)
			}
			o.LookedAt, o.PlannedAt, o.InstanceAt = now, now, now
			m = After(m, st, Result{Interface: &e}, now)
			if st.Do == Wait {
				break
			}
		}
		if st.Do != Wait {
			t.Errorf("%s: no end", name)
		}
	}
}
