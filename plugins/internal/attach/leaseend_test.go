package attach_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestFailedADDCostsNoAddress: the address of an ADD that fails or dies is free without a
// cool-down.
func TestFailedADDCostsNoAddress(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24")
	free := func(when string) {
		t.Helper()
		if all := e.leases(); len(all) > 0 {
			t.Errorf("%s: leases %v", when, all)
		}
	}
	for i := 1; ; i++ {
		n := 0
		var name string
		_, err := run(&attach.Plugin{Before: func(s string) error {
			if n++; n == i {
				name = s
				return errors.New("injected")
			}
			return nil
		}}, "ADD", e.pod(conf))
		if err == nil {
			break
		}
		wantCode(t, err, 999, "injected")
		free("failed before " + name)
		args := e.pod(conf)
		if !e.kill("ADD", i, args) {
			t.Fatalf("ADD ended before step %s", name)
		}
		e.del(args)
		free("killed before " + name)
	}
}

// TestBrokenPod: a pod whose sandbox is created again and again has one address at a time.
func TestBrokenPod(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "10.0.2.18/24")
	for range 5 {
		args := e.pod(conf)
		args.Args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=broken"
		if got := addresses(e.add(args)); !slices.Equal(got, []string{"10.0.2.16/24"}) {
			t.Errorf("the broken pod has %v", got)
		}
		e.del(args)
	}
	e.add(e.pod(conf))
	e.add(e.pod(conf))
}

func TestLeaseGivenBackByTheRecordAlone(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	args := e.pod(e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24"))
	e.add(args)
	if held := e.held(); len(held) != 1 {
		t.Fatalf("held: %v", held)
	}
	must(t, nstest.DeleteNetns(args.Netns))
	must(t, e.node.Detach(nstest.ENI{PCI: "0000:00:0c.0", Name: "ens12"}))
	must(t, os.Remove(e.file("inventory.json")))
	args.StdinData = e.conf(map[string]any{"select": map[string]any{"nodeENI": "no more"}})
	e.del(args)
	if held := e.held(); held != nil {
		t.Errorf("held after DEL: %v", held)
	}
}

// TestLeaseAfterDeath: a pod whose netns is gone without a DEL delays no other.
func TestLeaseAfterDeath(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{"coolDown": 0}, "10.0.2.15/24", "10.0.2.16/24")
	dead, next := e.pod(conf), e.pod(conf)
	e.add(dead)
	e.refused("ADD", next, 11, "1 leased")
	must(t, nstest.DeleteNetns(dead.Netns))
	if got := addresses(e.add(next)); !slices.Equal(got, []string{"10.0.2.16/24"}) {
		t.Errorf("after the holder's death: %v", got)
	}
	e.del(dead) // late, and of no consequence for the next one
	if held := e.held(); !slices.Equal(held, []string{"10.0.2.16=leased"}) {
		t.Errorf("held: %v", held)
	}

	// GC ends leases by the runtime's list, and leases without a record.
	gc := func(valid ...any) {
		t.Helper()
		args := *next
		var fields map[string]any
		must(t, json.Unmarshal(next.StdinData, &fields))
		fields["cni.dev/valid-attachments"] = append([]any{}, valid...)
		args.StdinData, _ = json.Marshal(fields)
		_, err := run(&attach.Plugin{}, "GC", &args)
		must(t, err)
	}
	gc(map[string]any{"containerID": next.ContainerID, "ifname": "net1"})
	if held := e.held(); len(held) != 1 {
		t.Errorf("held after GC with the holder in the list: %v", held)
	}
	must(t, os.RemoveAll(e.file("records")))
	gc(map[string]any{"containerID": next.ContainerID, "ifname": "net1"})
	if held := e.held(); len(held) != 1 {
		t.Errorf("held after GC without a record, but in the list: %v", held)
	}
	gc()
	if held := e.held(); held != nil {
		t.Errorf("held after GC without the holder: %v", held)
	}
	must(t, nstest.DeleteNetns(next.Netns))

	last := e.pod(conf)
	e.add(last)
	must(t, os.RemoveAll(e.file("records")))
	e.del(last)
	if held := e.held(); held != nil {
		t.Errorf("held after DEL without a record: %v", held)
	}
}
