// Package queues tests the settings of NICs with several queues, which drivers make for several processors only.
package queues

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

func TestMain(m *testing.M) {
	machine.Main(m, machine.Spec{Processors: 2, NICs: append(machine.DefaultNICs(), machine.NIC{ID: "virtio", Model: machine.VirtioRSS, MAC: virtio})})
}

const virtio = "02:00:00:00:03:00"

// TestHashKey: link.Restore restores a hash key. The plugin has no part in it.
func TestHashKey(t *testing.T) {
	guest.Clean(t)
	l, ok := guest.ByMAC(virtio)
	if !ok {
		t.Fatal("there is no NIC with a hash key")
	}
	h, err := link.Open()
	guest.Must(t, err)
	defer h.Close()
	now, err := h.ByIndex(l.Attrs().Index)
	guest.Must(t, err)
	want := now.State()
	if want.Ethtool, err = h.Ethtool(now.Name); err != nil {
		t.Fatal(err)
	}
	if _, key, _ := strings.Cut(want.Ethtool["rss"], "/"); len(key) < 40 {
		t.Fatalf("the driver tells no key: %v", want.Ethtool)
	}
	before := guest.Describe(t, guest.HostNetns, now.Name)
	do(t, adversary.New("/proc/1/ns/net", now.Index, 1), "ethtool rss key")
	if cmp.Equal(before, guest.Describe(t, guest.HostNetns, now.Name)) {
		t.Error("the key is as it was: nothing to be shown")
	}
	if err := h.Restore(now, want); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, guest.Describe(t, guest.HostNetns, now.Name)); diff != "" {
		t.Errorf("after Restore (-before +after):\n%s", diff)
	}
}

const pf = "02:00:00:00:02:00"

// TestQueues: DEL restores queues and distribution. While a table of its own is set, the kernel accepts no fewer queues.
func TestQueues(t *testing.T) {
	guest.Clean(t)
	pci, name := guest.WaitNIC(t, pf)
	guest.SetUp(t, name) // the driver fills the table then
	t.Cleanup(func() { guest.SetDown(t, name) })
	settings := guest.DeclareSettings(t, pci)
	for _, want := range []string{"channels", "rss"} {
		if settings[want] == "" {
			t.Errorf("the driver tells no %s: %v", want, settings)
		}
	}
	before := guest.Describe(t, guest.HostNetns, name)
	for _, acts := range [][]string{{"ethtool channels"}, {"ethtool rss"}, {"ethtool rss", "ethtool features", "ethtool rings"}} {
		pod := attach(t, pci)
		p := adversary.New(pod.Netns, indexIn(t, pod.Netns), 1)
		for _, act := range acts {
			do(t, p, act)
		}
		changed := guest.Describe(t, pod.Netns, "net1")
		differs := false
		for key := range before {
			differs = differs || key[:3] == "eth" && changed[key] != before[key]
		}
		if !differs {
			t.Errorf("%q changed nothing", acts)
		}
		guest.MustDel(t, pod)
		guest.DeleteNetns(t, pod.Netns)
		if diff := cmp.Diff(before, guest.Describe(t, guest.HostNetns, name)); diff != "" {
			t.Errorf("after %q (-before +after):\n%s", acts, diff)
		}
	}
}

func do(t *testing.T, p *adversary.Pod, name string) {
	t.Helper()
	for _, act := range adversary.Acts() {
		if act.Name == name {
			if err := p.Do(act); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
	}
	t.Errorf("there is no act %s", name)
}

func attach(t *testing.T, pci string) guest.CNICall {
	t.Helper()
	data, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "wire", "type": "multi-eni", "deviceID": pci})
	guest.Must(t, err)
	pod := guest.CNICall{ContainerID: "queues", Netns: guest.NewNetns(t, "queues"), IfName: "net1", Conf: string(data)}
	guest.MustAdd(t, pod)
	return pod
}

func indexIn(t *testing.T, netns string) (index int) {
	t.Helper()
	guest.In(t, netns, func() {
		if l, ok := guest.ByName("net1"); ok {
			index = l.Attrs().Index
		}
	})
	return index
}
