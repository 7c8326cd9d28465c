package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGuestArgs(t *testing.T) {
	args := []string{
		"-test.testlogfile=/x/testlog.txt", "-test.paniconexit0", "-test.timeout=10m0s", "-test.v=true",
		"-test.run=^TestA$", "-test.count=1", "-test.cpuprofile=p", "-update",
	}
	for name, tt := range map[string]struct {
		run  string
		want []string
	}{
		"first boot": {"", []string{"-test.paniconexit0", "-test.v=true", "-test.run=^TestA$", "-test.count=1", "-update"}},
		"reboot":     {"^(TestA)$", []string{"-test.run=^(TestA)$", "-test.paniconexit0", "-test.v=true", "-test.count=1", "-update"}},
	} {
		if diff := cmp.Diff(tt.want, guestArgs(args, tt.run)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestListing(t *testing.T) {
	for arg, want := range map[string]bool{"-test.list=.": true, "-test.list=": false, "-test.run=.": false} {
		if got := listing([]string{"-test.v=true", arg}); got != want {
			t.Errorf("listing with %s = %v, want %v", arg, got, want)
		}
	}
}

func TestArguments(t *testing.T) {
	h := &host{spec: Spec{}.withDefaults(), kernel: kernel{image: "vmlinuz"}, dir: "tmp"}
	h.nics = []NIC{{ID: "a", Model: E1000E, MAC: "02:00:00:00:00:01", Slot: "slot2"}, {ID: "pf", Model: IGB, MAC: "02:00:00:00:00:02"}}
	args := h.arguments()
	for _, want := range [][]string{
		{"-m", "1024"},
		{"-initrd", "tmp/initramfs"},
		{"-device", "intel-iommu,intremap=on,caching-mode=on"},
		{"-device", "pcie-root-port,id=slot7,bus=pcie.0,chassis=8,slot=8"},
		{"-device", "e1000e,id=a,bus=slot2,netdev=wire-a,mac=02:00:00:00:00:01,romfile="},
		{"-device", "pcie-root-port,id=port-pf,bus=pcie.0,chassis=9,slot=9"},
		{"-device", "igb,id=pf,bus=port-pf,netdev=wire-pf,mac=02:00:00:00:00:02,romfile="},
		{"-netdev", "hubport,hubid=0,id=wire-pf"},
	} {
		if !pairIn(args, want) {
			t.Errorf("no %q in %q", want, args)
		}
	}
	h.spec.NoIOMMU = true
	if pairIn(h.arguments(), []string{"-device", "intel-iommu,intremap=on,caching-mode=on"}) {
		t.Error("an IOMMU in spite of NoIOMMU")
	}
}

func pairIn(args, pair []string) bool {
	for i := range len(args) - 1 {
		if args[i] == pair[0] && args[i+1] == pair[1] {
			return true
		}
	}
	return false
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
