package leases

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fields"
)

const (
	leaseENI  = "eni-0a1b2c3d4e5f60001"
	thisBoot  = "2f1f3a52-0000-4000-8000-00000000000b"
	otherBoot = "2f1f3a52-0000-4000-8000-00000000000a"
)

func sampleLeases() Leases {
	return Leases{
		SchemaVersion: nodestate.SchemaVersion, ENIID: leaseENI, Last: []netip.Addr{netip.MustParseAddr("10.0.1.17")},
		Leases: []Lease{
			{Address: netip.MustParseAddr("10.0.1.16"), State: Held, AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"},
				Network: "shared", Pod: "shop/web-0",
				Netns: nodestate.Netns{Path: "/run/netns/c1", Cookie: 4097, Inode: 4026532000}, CoolDown: 30 * time.Second},
			{Address: netip.MustParseAddr("10.0.1.17"), State: Cooling, AttachmentID: nodestate.AttachmentID{ContainerID: "c0", IfName: "net1"},
				CoolDown: 30 * time.Second, FreeAt: 90 * time.Second},
		},
		Asked: []string{"ipv4"}, Retiring: []netip.Prefix{netip.MustParsePrefix("10.0.1.18/32"), netip.MustParsePrefix("10.0.1.32/28")},
	}
}

// TestOnDisk: the file is the contract with the daemon.
func TestOnDisk(t *testing.T) {
	dir := Dir(t.TempDir())
	l, err := dir.Lock(t.Context(), thisBoot, leaseENI)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Leases.Leases) != 0 {
		t.Errorf("an ENI without a file has %v", l.Leases)
	}
	l.Leases = sampleLeases()
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dir.Lock(now, thisBoot, leaseENI); !errors.Is(err, nodestate.ErrBusy) {
		t.Errorf("a second lock: %v", err)
	}
	l.Close()
	compareGolden(t, filepath.Join(string(dir), thisBoot, leaseENI+".json"))
	got, err := dir.Read(thisBoot, leaseENI)
	if diff := cmp.Diff(sampleLeases(), got, comparers); diff != "" || err != nil {
		t.Errorf("read again: %v (-want +got):\n%s", err, diff)
	}
	if enis, err := dir.ENIs(thisBoot); err != nil || len(enis) != 1 || enis[0] != leaseENI {
		t.Errorf("ENIs = %v, %v", enis, err)
	}
	if enis, err := dir.ENIs(otherBoot); err != nil || enis != nil {
		t.Errorf("ENIs of another boot = %v, %v", enis, err)
	}
}

// TestEarlierBoots: nothing of them is read, and the first lock of a boot removes them, and nothing else.
func TestEarlierBoots(t *testing.T) {
	root := t.TempDir()
	dir := Dir(root)
	torn := filepath.Join(root, otherBoot, leaseENI+".json")
	const others = "2f1f3a52-0000-4000-8000-00000000000c" // named like a boot, but not ours
	for path, content := range map[string]string{
		torn: "", filepath.Join(root, otherBoot, "locks", leaseENI+".lock"): "",
		filepath.Join(root, others, "volumes", "data"): "x", filepath.Join(root, others, leaseENI+".json"): "",
		filepath.Join(root, "notes", "mine.txt"): "x", filepath.Join(root, "README"): "x",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := dir.Lock(t.Context(), thisBoot, leaseENI)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	entries, err := os.ReadDir(root)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{thisBoot, others, "README", "notes"}; !slices.Equal(names, want) || err != nil {
		t.Errorf("left: %v, %v; want %v", names, err, want)
	}
	if data, err := os.ReadFile(filepath.Join(root, others, "volumes", "data")); string(data) != "x" {
		t.Errorf("somebody else's file: %q, %v", data, err)
	}
	if err := dir.RemoveAll(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, thisBoot)); err == nil {
		t.Error("RemoveAll has left this boot's")
	}
	if err := Dir(filepath.Join(root, "absent")).RemoveAll(); err != nil {
		t.Error(err)
	}
}

// TestFileRefused: no fault of a file is taken for another, and the error says the way out.
func TestFileRefused(t *testing.T) {
	dir := Dir(t.TempDir())
	path := filepath.Join(string(dir), thisBoot, leaseENI+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	leases := func(leases string) string {
		return `{"schemaVersion":1,"eniID":"` + leaseENI + `","leases":` + leases + `}`
	}
	for name, tt := range map[string]struct {
		content string
		want    error
	}{
		"empty":                         {"", nodestate.ErrCorrupt},
		"torn":                          {`{"schemaVersion":1,"eniID":"eni-0a`, nodestate.ErrCorrupt},
		"no version":                    {`{"eniID":"` + leaseENI + `","leases":[]}`, nodestate.ErrCorrupt},
		"another ENI":                   {`{"schemaVersion":1,"eniID":"eni-0a1b2c3d4e5f60002","leases":[]}`, nodestate.ErrCorrupt},
		"state":                         {leases(`[{"address":"10.0.0.1","state":"lent"}]`), nodestate.ErrCorrupt},
		"no holder":                     {leases(`[{"address":"10.0.0.1","state":"leased"}]`), nodestate.ErrCorrupt},
		"order":                         {leases(`[{"address":"10.0.0.2","state":"cooling"},{"address":"10.0.0.1","state":"cooling"}]`), nodestate.ErrCorrupt},
		"zone":                          {leases(`[{"address":"fe80::1%eth0","state":"cooling"}]`), nodestate.ErrCorrupt},
		"retire":                        {leases(`[],"retiring":["10.0.0.9/28"]`), nodestate.ErrCorrupt},
		"too large":                     {strings.Repeat(" ", 4<<20+1), nodestate.ErrCorrupt},
		"other version":                 {`{"schemaVersion":2,"leases":"x","address":{}}`, nodestate.ErrOtherVersion},
		"other version, values refused": {`{"eniID":"z","schemaVersion":3}`, nodestate.ErrOtherVersion},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		remedy := "rebuilds it"
		if tt.want == nodestate.ErrOtherVersion { //nolint:errorlint // a row of the table
			remedy = "truncate -s 0 " + path
		}
		_, err := dir.Lock(t.Context(), thisBoot, leaseENI)
		for _, class := range []error{nodestate.ErrCorrupt, nodestate.ErrOtherVersion, nodestate.ErrUntrusted, fs.ErrNotExist} {
			if errors.Is(err, class) != (class == tt.want) || err == nil || !strings.Contains(err.Error(), remedy) { //nolint:errorlint // a row of the table
				t.Errorf("%s: %v; want %v alone, with %q", name, err, tt.want, remedy)
			}
		}
	}
	for _, bad := range [][2]string{{"../x", leaseENI}, {"", leaseENI}, {thisBoot, "../../etc/passwd"}, {thisBoot, ""}} {
		if _, err := dir.Read(bad[0], "eni-"); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Read(thisBoot, leaseENI); !errors.Is(err, nodestate.ErrUntrusted) {
		t.Errorf("a symbolic link: %v", err)
	}
}

// TestLock: no change is lost among many writers.
func TestLock(t *testing.T) {
	dir := Dir(t.TempDir())
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			l, err := dir.Lock(t.Context(), thisBoot, leaseENI)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
			i, _ := l.Find(a)
			l.Leases.Leases = slices.Insert(l.Leases.Leases, i, Lease{Address: a, State: Cooling})
			if err := l.Save(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l, err := dir.Read(thisBoot, leaseENI); len(l.Leases) != 40 || err != nil {
		t.Errorf("%d leases, %v", len(l.Leases), err)
	}
}

func TestPools(t *testing.T) {
	d := nodestate.Device{ENIID: leaseENI, SubnetCIDR: netip.MustParsePrefix("10.0.1.0/24")}
	for _, s := range []string{"10.0.1.10/24", "2001:db8::9/64", "10.0.1.12/24", "10.0.1.11/24", "2001:db8::a/64"} {
		d.Addresses = append(d.Addresses, netip.MustParsePrefix(s))
	}
	d.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.1.32/28"), netip.MustParsePrefix("2001:db8:0:0:1::/80")}
	pools := Pools(&d)
	v4, v6 := pools[0], pools[1]
	if v4.Size() != 18 || v6.Size() != 1<<48+1 || v4.String() != "10.0.1.12, 10.0.1.11, 10.0.1.32/28" {
		t.Errorf("sizes %d, %d, %s", v4.Size(), v6.Size(), v4)
	}
	walk := func(p Pool, last string, most int) (out []string) {
		var a netip.Addr
		if last != "" {
			a = netip.MustParseAddr(last)
		}
		for p := range p.Behind(a) {
			if out = append(out, p.String()); len(out) == most {
				break
			}
		}
		return out
	}
	for last, want := range map[string][]string{
		"":           {"10.0.1.12/24", "10.0.1.11/24", "10.0.1.32/24"},
		"10.0.1.12":  {"10.0.1.11/24", "10.0.1.32/24", "10.0.1.33/24"},
		"10.0.1.46":  {"10.0.1.47/24", "10.0.1.12/24", "10.0.1.11/24"},
		"10.0.1.47":  {"10.0.1.12/24", "10.0.1.11/24", "10.0.1.32/24"},
		"10.9.9.9":   {"10.0.1.12/24", "10.0.1.11/24", "10.0.1.32/24"},
		"10.0.1.100": {"10.0.1.12/24", "10.0.1.11/24", "10.0.1.32/24"},
	} {
		if got := walk(v4, last, 3); !slices.Equal(got, want) {
			t.Errorf("behind %q: %v, want %v", last, got, want)
		}
		all := walk(v4, last, 0)
		slices.Sort(all)
		if len(slices.Compact(all)) != 18 || len(all) != 18 {
			t.Errorf("behind %q: not once around: %v", last, all)
		}
	}
	if got := walk(v6, "2001:db8::1:0:0:5", 1); got[0] != "2001:db8::1:0:0:6/64" {
		t.Errorf("in a /80: %v", got)
	}
	if got := walk(v4, "10.0.1.47", 0); got[17] != "10.0.1.47/24" {
		t.Errorf("the last given is not the last: %v", got)
	}
	for a, want := range map[string]string{
		"10.0.1.10": "", "10.0.1.11": "10.0.1.11/24", "10.0.1.40": "10.0.1.40/24",
		"2001:db8::9": "", "2001:db8:0:0:1:2:3:4": "2001:db8:0:0:1:2:3:4/64",
	} {
		p, ok := v4.Find(netip.MustParseAddr(a))
		if !ok {
			p, ok = v6.Find(netip.MustParseAddr(a))
		}
		if got := fmt.Sprint(p); ok != (want != "") || ok && got != netip.MustParsePrefix(want).String() {
			t.Errorf("Find(%s) = %s, %v; want %q", a, got, ok, want)
		}
	}
	huge := Pool{spans: []span{{netip.MustParsePrefix("2001:db8::/48"), 64}}}
	if huge.Size() != math.MaxInt {
		t.Errorf("size of a /48: %d", huge.Size())
	}

	l := Leases{ENIID: leaseENI, Leases: []Lease{
		{Address: netip.MustParseAddr("10.0.1.11"), State: Held}, {Address: netip.MustParseAddr("10.0.1.12"), State: Cooling, FreeAt: 9},
		{Address: netip.MustParseAddr("10.0.1.33"), State: Cooling, FreeAt: 20},
		{Address: netip.MustParseAddr("10.0.9.9"), State: Held},
	}, Retiring: []netip.Prefix{netip.MustParsePrefix("10.0.1.34/32"), netip.MustParsePrefix("10.0.9.0/28")}}
	if c, next := l.Count(v4, 10); c != (PoolCount{18, 1, 1, 1}) || next != 10 || c.Free() != 15 {
		t.Errorf("Count = %+v, %v", c, next)
	}
}

// TestEveryFieldIsStored: each field comes back from the file.
func TestEveryFieldIsStored(t *testing.T) {
	s := fields.Samples{}
	fields.Sample(s, device.ENIID("eni-0a1b2c3d4e5f60001"), "eni-0a1b2c3d4e5f60002")
	fields.Sample(s, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
	fields.Sample(s, netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24"))
	n := 0
	fields.Each(s, func(path string, _, want Leases) {
		n++
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Leases
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, comparers); diff != "" {
			t.Errorf("%s is lost (-want +got):\n%s", path, diff)
		}
	})
	if n < 15 {
		t.Errorf("only %d fields", n)
	}
}

// FuzzLeases: the decoder never panics, refuses a file as corrupt or as another version's,
// and reads an accepted file again.
func FuzzLeases(f *testing.F) {
	golden, err := os.ReadFile(goldenFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	for version := range 3 {
		f.Add(fmt.Appendf(nil, `{"schemaVersion":%d}`, version))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := decodeLeases("f", data)
		if err != nil {
			if errors.Is(err, nodestate.ErrCorrupt) == errors.Is(err, nodestate.ErrOtherVersion) {
				t.Fatalf("decode: %v; want either ErrCorrupt or ErrOtherVersion", err)
			}
			return
		}
		written, err := nodestate.Encode(first)
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		second, err := decodeLeases("f", written)
		if diff := cmp.Diff(first, second, comparers); diff != "" || err != nil {
			t.Fatalf("decode what was encoded: %v (-first +second):\n%s", err, diff)
		}
	})
}

var update = flag.Bool("update", false, "write the golden file")

const goldenFile = "testdata/leases.golden.json"

func compareGolden(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of %s: %v, %v; want 0600", path, info.Mode(), err)
	}
	if *update {
		if err := os.WriteFile(goldenFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", goldenFile, diff)
	}
}

var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(slices.Equal[[]netip.Addr]), // an empty list may be left out
	cmp.Comparer(slices.Equal[[]netip.Prefix]),
	cmp.Comparer(slices.Equal[[]string]),
}
