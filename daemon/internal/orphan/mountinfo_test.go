package orphan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func parse(t *testing.T, content string) ([]*mountinfo.Info, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return readMounts(path)
}

func TestReadMounts(t *testing.T) {
	got, err := parse(t, `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
40 28 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
90 40 0:4 net:[4026532281] /run/netns/cni-1 rw shared:5 - nsfs nsfs rw
91 36 0:30 /a\040b /with\134back\011tab rw propagate_from:7 unbindable - overlay  rw
28 0 0:31 / / rw - tmpfs tmpfs rw
`)
	if err != nil {
		t.Fatal(err)
	}
	type mount struct {
		id, parent  int
		root, point string
		propagated  bool
		fsType      string
	}
	want := []mount{
		{id: 36, parent: 35, root: "/mnt1", point: "/mnt2", propagated: true, fsType: "ext3"},
		{id: 40, parent: 28, root: "/", point: "/run", propagated: true, fsType: "tmpfs"},
		{id: 90, parent: 40, root: "net:[4026532281]", point: "/run/netns/cni-1", propagated: true, fsType: "nsfs"},
		{id: 91, parent: 36, root: "/a b", point: "/with\\back\ttab", fsType: "overlay"},
		{id: 28, root: "/", point: "/", fsType: "tmpfs"},
	}
	var mounts []mount
	for _, m := range got {
		mounts = append(mounts, mount{m.ID, m.Parent, m.Root, m.Mountpoint, propagated(m), m.FSType})
	}
	if diff := cmp.Diff(want, mounts, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	const good = "36 35 98:0 / /m rw - ext3 dev rw\n"
	for _, bad := range []string{
		"garbage", "\n", "36 35 98:0 / /m rw", "x 35 98:0 / /m rw - ext3 dev rw", "36 x 98:0 / /m rw - ext3 dev rw",
		"36 35 98:0 / /m rw a b c d", "36 35 98:0 / /m rw a b -", `92 36 0:31 / /tail\0 rw - tmpfs tmpfs rw`,
	} {
		for _, content := range []string{bad, good + bad, bad + "\n" + good} {
			if got, err := parse(t, content); err == nil || got != nil {
				t.Errorf("mounts of %q: %+v; want an error", content, got)
			}
		}
	}
	if _, err := readMounts(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error without the file")
	}
}

func TestOwnMounts(t *testing.T) {
	if nstest.Outside(t) { // in a chroot the root is in no mount that can be seen
		return
	}
	all, err := readMounts(ownMountInfo)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"/", "/proc", t.TempDir()} {
		id, err := mountID(folder)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, m := range all {
			found = found || m.ID == id
		}
		if !found {
			t.Errorf("%s lies in mount %d, which is not in mountinfo", folder, id)
		}
	}
	if _, err := mountID("/proc/self/mountinfo"); err == nil {
		t.Error("mountID of a file: no error")
	}
}

func FuzzReadMounts(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add("90 40 0:4 net:[4026532281] /run/netns/a\\040b rw shared:5 master:2 - nsfs nsfs rw\n36 35 0:1 / / rw - a")
	f.Fuzz(func(t *testing.T, data string) {
		all, err := parse(t, data)
		if err != nil && all != nil {
			t.Errorf("mounts beside error %v: %+v", err, all)
		}
		for _, m := range all {
			judge(all, m.ID, filepath.Dir(m.Mountpoint))
		}
	})
}

func TestJudge(t *testing.T) {
	folder := &mountinfo.Info{ID: 5, Parent: 1, Root: "/netns", Mountpoint: "/run/netns", Optional: "shared:5", FSType: "tmpfs"}
	netns := &mountinfo.Info{ID: 9, Parent: 5, Root: "net:[4026532281]", Mountpoint: "/run/netns/a", FSType: "nsfs"}
	edit := func(m *mountinfo.Info, f func(*mountinfo.Info)) *mountinfo.Info {
		other := *m
		f(&other)
		return &other
	}
	private := edit(folder, func(m *mountinfo.Info) { m.Optional = "" })
	for name, tt := range map[string]struct {
		mounts            []*mountinfo.Info
		propagated, netns bool
	}{
		"nothing":            {},
		"an empty folder":    {[]*mountinfo.Info{folder}, true, false},
		"with a netns":       {[]*mountinfo.Info{folder, netns}, true, true},
		"not propagated":     {[]*mountinfo.Info{private, netns}, false, true},
		"of another mount":   {[]*mountinfo.Info{folder, edit(netns, func(m *mountinfo.Info) { m.Parent = 7 })}, true, false},
		"another namespace":  {[]*mountinfo.Info{folder, edit(netns, func(m *mountinfo.Info) { m.Root = "mnt:[4026532281]" })}, true, false},
		"another filesystem": {[]*mountinfo.Info{folder, edit(netns, func(m *mountinfo.Info) { m.FSType = "tmpfs" })}, true, false},
		"deeper, or above it": {[]*mountinfo.Info{folder, edit(netns, func(m *mountinfo.Info) { m.Mountpoint = "/run/netns/a/b" }),
			edit(netns, func(m *mountinfo.Info) { m.Mountpoint = "/run/netns" })}, true, false},
	} {
		if p, n := judge(tt.mounts, 5, "/run/netns"); p != tt.propagated || n != tt.netns {
			t.Errorf("%s: propagated %v, netns %v; want %v, %v", name, p, n, tt.propagated, tt.netns)
		}
	}
}

// TestInFirstMountNamespace: process 1 counts only where it is the machine's.
func TestInFirstMountNamespace(t *testing.T) {
	const own, other = "mnt:[4026531841]", "mnt:[4026532200]"
	for name, tt := range map[string]struct {
		pid, self, first string
		want             bool
	}{
		"on the host":                            {firstPIDNamespace, own, own, true},
		"container with the host's processes":    {firstPIDNamespace, other, own, false},
		"container, as its own first process":    {"pid:[4026532300]", other, other, false},
		"first process may not be looked at":     {firstPIDNamespace, own, "", false},
		"own namespace may not be looked at":     {firstPIDNamespace, "", "", false},
		"own PID namespace may not be looked at": {"", own, own, false},
	} {
		proc := t.TempDir()
		for at, to := range map[string]string{"self/ns/pid": tt.pid, "self/ns/mnt": tt.self, "1/ns/mnt": tt.first} {
			if err := os.MkdirAll(filepath.Join(proc, filepath.Dir(at)), 0o755); err != nil {
				t.Fatal(err)
			}
			if to == "" {
				continue
			}
			if err := os.Symlink(to, filepath.Join(proc, at)); err != nil {
				t.Fatal(err)
			}
		}
		if got := inFirstMountNamespace(proc); got != tt.want {
			t.Errorf("%s: %v; want %v", name, got, tt.want)
		}
	}
}

// TestShows: on the host itself a folder only has to exist.
func TestShows(t *testing.T) {
	folder := t.TempDir()
	w := newWatch("/nonexistent")
	for _, tt := range []struct {
		first  bool
		folder string
		want   bool
	}{{true, folder, true}, {true, folder + "/none", false}, {false, folder, false}} {
		w.first = tt.first
		w.forget()
		if got := w.shows(tt.folder); got != tt.want {
			t.Errorf("first namespace %v, folder %s: %v; want %v", tt.first, tt.folder, got, tt.want)
		}
	}
	if _, err := Look(folder + "/none"); err == nil {
		t.Error("Look at a folder that is not there: no error")
	}
	if _, err := Look(folder); err != nil {
		t.Error(err)
	}
}

func TestCheckPlugin(t *testing.T) {
	for name, tt := range map[string]struct {
		mode, uid uint32
		ok        bool
	}{
		"root's":             {unix.S_IFREG | 0o755, 0, true},
		"ours":               {unix.S_IFREG | 0o700, 7, true},
		"somebody else's":    {unix.S_IFREG | 0o755, 8, false},
		"writable by group":  {unix.S_IFREG | 0o775, 0, false},
		"writable by others": {unix.S_IFREG | 0o757, 0, false},
		"not executable":     {unix.S_IFREG | 0o644, 0, false},
		"a folder":           {unix.S_IFDIR | 0o755, 0, false},
		"a link":             {unix.S_IFLNK | 0o777, 0, false},
		"a pipe":             {unix.S_IFIFO | 0o755, 0, false},
	} {
		if err := checkPlugin(&unix.Stat_t{Mode: tt.mode, Uid: tt.uid}, 7); (err == nil) != tt.ok {
			t.Errorf("%s: %v; want ok %v", name, err, tt.ok)
		}
	}
}
