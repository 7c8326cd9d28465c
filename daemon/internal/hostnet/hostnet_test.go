package hostnet

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// primary is a link as EC2's first ENI is on Amazon Linux 2023.
func primary() Link {
	return Link{Name: "ens5", AltNames: []string{"enp0s5", "eni-0a1b2c3d4e5f60001"}, MAC: "02:00:00:00:00:01", Driver: "ena"}
}

func second() Link {
	return Link{Name: "ens6", AltNames: []string{"enp0s6"}, MAC: "02:00:00:00:00:02", Driver: "ena"}
}

// host is a tree with files, as the host has them.
func host(files map[string]string) fstest.MapFS {
	tree := fstest.MapFS{"etc/systemd": dir(), "usr/lib/systemd": dir(), "etc/NetworkManager": dir()}
	for name, content := range files {
		if content == "/dev/null" {
			tree[name] = &fstest.MapFile{Data: []byte(content), Mode: fs.ModeSymlink}
			continue
		}
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return tree
}

func dir() *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeDir | 0o755} }

// placed are files as they lie on the host.
func placed(t *testing.T, m Manager) map[string]string {
	t.Helper()
	files, err := Files(m, "ens5", ENIDriver)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range files {
		all[strings.TrimPrefix(f.Path, "/")] = f.Marked()
	}
	return all
}

// TestFiles: they match every ENI but the primary one, with alternative names on both.
func TestFiles(t *testing.T) {
	want := []File{
		{"/etc/systemd/network/05-multi-eni.network", "[Match]\nDriver=ena\nProperty=!INTERFACE=ens5\n\n[Link]\nUnmanaged=yes\n"},
		{"/etc/systemd/networkd.conf.d/80-multi-eni.conf", "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"},
	}
	got, err := Files(Networkd, "ens5", "ena")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	verdicts := map[Manager]func(fs.FS, Link) (Verdict, error){Networkd: NetworkdVerdict, NetworkManager: NetworkManagerVerdict}
	for m, verdict := range verdicts {
		tree := host(placed(t, m))
		if v, err := verdict(tree, primary()); err != nil || v.Unmanaged || len(v.Unsure) > 0 {
			t.Errorf("%s, primary: %+v, %v", m, v, err)
		}
		if v, err := verdict(tree, second()); err != nil || !v.Unmanaged {
			t.Errorf("%s, second: %+v, %v", m, v, err)
		}
	}
	if on, err := ForeignManaged(host(placed(t, Networkd))); err != nil || len(on) > 0 {
		t.Errorf("ManageForeign*: %v, %v", on, err)
	}
}

// TestFilesRefuse: Files refuses names that could make a file match the primary ENI.
func TestFilesRefuse(t *testing.T) {
	for _, name := range []string{
		"", "ens*", "ens?", "ens[5]", "ens;5", "ens,5", "ens%5", "ens 5", `ens"5`, "ens'5", `ens\5`, "~ens5", "=ens5", "!ens5", "#ens5", "ens5\n", "a-name-of-16-byt",
	} {
		for _, m := range []Manager{Networkd, NetworkManager} {
			if files, err := Files(m, name, "ena"); err == nil || files != nil {
				t.Errorf("%s, %q: %v", m, name, files)
			}
		}
		if got := Advice(nil, name, "ena"); strings.Contains(got, "/etc/") {
			t.Errorf("%q: advice %q", name, got)
		}
	}
	if files, err := Files(Networkd, "ens5", "e*"); err == nil {
		t.Errorf("%v", files)
	}
	if files, err := Files("wicked", "ens5", "ena"); err == nil {
		t.Errorf("%v", files)
	}
}

func TestAdvice(t *testing.T) {
	got := Advice([]Manager{NetworkManager}, "ens5", "ena")
	want := `for NetworkManager write /etc/NetworkManager/conf.d/80-multi-eni.conf: '[keyfile]\nunmanaged-devices=driver:ena;except:interface-name:ens5\n', ` +
		`then run ` + "`nmcli general reload`"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := Advice(nil, "ens5", "ena"); strings.Count(got, "write /etc/systemd/network/05-multi-eni.network") != 1 ||
		strings.Count(got, "write /etc/NetworkManager/") != 1 || strings.Contains(got, "\n") {
		t.Errorf("without a manager: %q", got)
	}
}

// TestMark: Ours tells our file from an edited and from a foreign one.
func TestMark(t *testing.T) {
	f := File{"/x", "[Match]\nDriver=ena\n"}
	if ours, unchanged := Ours(f.Marked()); !ours || !unchanged {
		t.Error("not ours")
	}
	if ours, unchanged := Ours(f.Marked() + "Name=x\n"); !ours || unchanged {
		t.Error("an edited one is not told")
	}
	if ours, unchanged := Ours(f.Content); ours || unchanged {
		t.Error("another's is ours")
	}
}

// TestNetworkdVerdict: which file networkd takes for the primary ENI, and whether it leaves it alone.
func TestNetworkdVerdict(t *testing.T) {
	const unmanaged, network = "\n[Link]\nUnmanaged=yes\n", "etc/systemd/network/05-a.network"
	for name, tt := range map[string]struct {
		files map[string]string
		want  Verdict
	}{
		"nothing": {nil, Verdict{}},
		// The file that docs/migration.md once gave.
		"Name=! and an altname": {map[string]string{"etc/systemd/network/05-multi-eni.network": "[Match]\nDriver=ena\nName=!ens5\n" + unmanaged},
			Verdict{Unmanaged: true, File: "/etc/systemd/network/05-multi-eni.network"}},
		"the driver alone": {map[string]string{network: "[Match]\nDriver=ena\n" + unmanaged}, Verdict{Unmanaged: true, File: "/" + network}},
		"an earlier one that manages": {map[string]string{
			network:                            "[Match]\nDriver=ena\n" + unmanaged,
			"run/systemd/network/04-b.network": "[Match]\nPermanentMACAddress=02:00:00:00:00:01\n[Network]\nDHCP=yes\n",
		}, Verdict{File: "/run/systemd/network/04-b.network"}},
		"hidden by /etc": {map[string]string{"usr/lib/systemd/network/05-a.network": "[Match]\nDriver=ena\n" + unmanaged, network: "/dev/null"}, Verdict{}},
		// As nodeadm keeps 80-ec2.network from all links but the primary one.
		"a drop-in": {
			map[string]string{
				"usr/lib/systemd/network/80-ec2.network":                      "[Match]\nDriver=ena ixgbevf vif\n[Network]\nDHCP=yes\n",
				"run/systemd/network/80-ec2.network.d/10-eks-disable.conf":    "[Match]\nName=none",
				"run/systemd/network/70-eks-ens5.network":                     "[Match]\nPermanentMACAddress=02:00:00:00:00:01\n[Network]\nDHCP=yes\n",
				"etc/systemd/network/90-other.network":                        "[Match]\nName=*\n" + unmanaged,
				"etc/systemd/network/60-a-comment-and-a-continuation.network": "# Driver=ena\n[Match]\nName=eth0 \\\n  eth1\n" + unmanaged,
			},
			Verdict{File: "/run/systemd/network/70-eks-ens5.network"},
		},
		"a list that is emptied":          {map[string]string{network: "[Match]\nName=ens5\nName=\nName=ens9\n" + unmanaged}, Verdict{}},
		"a condition that cannot be told": {map[string]string{network: "[Match]\nDriver=ena\nHost=other\n" + unmanaged}, Verdict{Unsure: []string{"/" + network}}},
		"a condition that cannot be told, and one that does not hold": {map[string]string{network: "[Match]\nDriver=virtio_net\nHost=other\n" + unmanaged},
			Verdict{}},
		"quotes":       {map[string]string{network: "[Match]\nProperty=!\"INTERFACE=ens5\"\n" + unmanaged}, Verdict{Unsure: []string{"/" + network}}},
		"no condition": {map[string]string{network: unmanaged}, Verdict{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NetworkdVerdict(host(tt.files), primary())
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestNetworkManagerVerdict(t *testing.T) {
	const main, conf = "etc/NetworkManager/NetworkManager.conf", "etc/NetworkManager/conf.d/50-a.conf"
	for name, tt := range map[string]struct {
		files map[string]string
		want  Verdict
	}{
		"nothing":           {map[string]string{main: "[main]\nplugins=keyfile\n"}, Verdict{}},
		"the driver alone":  {map[string]string{conf: "[keyfile]\nunmanaged-devices=driver:ena\n"}, Verdict{Unmanaged: true, File: "/" + conf}},
		"except by pattern": {map[string]string{conf: "[keyfile]\nunmanaged-devices=driver:en*;except:interface-name:ens[45]\n"}, Verdict{}},
		"every":             {map[string]string{main: "[keyfile]\nunmanaged-devices=*,except:type:wifi\n"}, Verdict{Unmanaged: true, File: "/" + main}},
		"a later one":       {map[string]string{main: "[keyfile]\nunmanaged-devices=*\n", conf: "[keyfile]\nunmanaged-devices=mac:02:00:00:00:00:02\n"}, Verdict{}},
		"one that adds": {map[string]string{main: "[keyfile]\nunmanaged-devices=mac:02:00:00:00:00:02\n", conf: "[keyfile]\nunmanaged-devices+=ens5\n"},
			Verdict{Unmanaged: true, File: "/" + conf}},
		"of /usr/lib, before": {map[string]string{"usr/lib/NetworkManager/conf.d/99-z.conf": "[keyfile]\nunmanaged-devices=*\n",
			main: "[keyfile]\nunmanaged-devices=none\n"}, Verdict{}},
		"unknown condition":     {map[string]string{conf: "[keyfile]\nunmanaged-devices=s390-subchannels:0.0.1\n"}, Verdict{Unsure: []string{"/" + conf}}},
		"of another section":    {map[string]string{conf: "[main]\nunmanaged-devices=*\n"}, Verdict{}},
		"its name, and exactly": {map[string]string{conf: "[keyfile]\nunmanaged-devices=interface-name:=ens5\n"}, Verdict{Unmanaged: true, File: "/" + conf}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NetworkManagerVerdict(host(tt.files), primary())
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestForeignManaged(t *testing.T) {
	const rules, routes = "ManageForeignRoutingPolicyRules", "ManageForeignRoutes"
	for name, tt := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"by default":      {nil, []string{rules, routes}},
		"as Bottlerocket": {map[string]string{"usr/lib/systemd/networkd.conf.d/80-release.conf": "[Network]\n" + routes + "=no\n" + rules + "=no\n"}, nil},
		"a later name wins": {map[string]string{
			"usr/lib/systemd/networkd.conf.d/90-a.conf": "[Network]\n" + routes + "=yes\n",
			"etc/systemd/networkd.conf.d/80-b.conf":     "[Network]\n" + routes + "=no\n" + rules + "=off\n",
		}, []string{routes}},
		"the main file": {map[string]string{"etc/systemd/networkd.conf": "[Network]\n" + routes + "=0\n#" + rules + "=no\n"}, []string{rules}},
		"the same name": {map[string]string{"usr/lib/systemd/networkd.conf.d/80-a.conf": "[Network]\n" + routes + "=no\n" + rules + "=no\n",
			"etc/systemd/networkd.conf.d/80-a.conf": ""}, []string{rules, routes}},
		"another section": {map[string]string{"etc/systemd/networkd.conf": "[DHCPv4]\n" + routes + "=no\n" + rules + "=no\n"}, []string{rules, routes}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ForeignManaged(host(tt.files))
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestNotVisible: files that cannot be seen do not count as absent.
func TestNotVisible(t *testing.T) {
	_, networkd := NetworkdVerdict(fstest.MapFS{}, primary())
	_, nm := NetworkManagerVerdict(fstest.MapFS{}, primary())
	_, foreign := ForeignManaged(fstest.MapFS{})
	_, partly := ForeignManaged(fstest.MapFS{"etc/systemd": dir()}) // an image's default is not seen
	for _, err := range []error{networkd, nm, foreign, partly} {
		if !errors.Is(err, ErrNotVisible) {
			t.Errorf("%v, want %v", err, ErrNotVisible)
		}
	}
	dangling := host(map[string]string{"etc/systemd/network/05-a.network": "/dev/null"})
	dangling["etc/systemd/network/05-a.network"].Data = []byte("/usr/share/not-mounted.network")
	if v, err := NetworkdVerdict(dangling, primary()); err == nil {
		t.Errorf("a link that leads nowhere here: %+v", v)
	}
}

func TestRunning(t *testing.T) {
	for name, tt := range map[string]struct {
		tree  fstest.MapFS
		want  []Manager
		known bool
	}{
		"networkd": {fstest.MapFS{"fs/cgroup/system.slice/systemd-networkd.service": dir(), "fs/cgroup/system.slice/sshd.service": dir()},
			[]Manager{Networkd}, true},
		"NetworkManager": {fstest.MapFS{"fs/cgroup/systemd/system.slice/NetworkManager.service": dir()}, []Manager{NetworkManager}, true},
		"neither":        {fstest.MapFS{"fs/cgroup/system.slice/sshd.service": dir()}, nil, true},
		"not to be seen": {fstest.MapFS{"fs/cgroup/cgroup.controllers": &fstest.MapFile{}}, nil, false},
	} {
		if got, known := Running(tt.tree); known != tt.known || !cmp.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, known, tt.want, tt.known)
		}
	}
}

// FuzzFiles: whatever the links are called, the files leave the primary ENI alone and match the other one.
func FuzzFiles(f *testing.F) {
	for _, name := range []string{"ens5", "eth0", "ens*", "a b", `"ens5"`, "e;5", "%i", "\\x41", "ens5\n[Link]"} {
		f.Add(name, "ens6")
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		for m, verdict := range map[Manager]func(fs.FS, Link) (Verdict, error){Networkd: NetworkdVerdict, NetworkManager: NetworkManagerVerdict} {
			files, err := Files(m, name, ENIDriver)
			if err != nil {
				continue
			}
			tree := map[string]string{}
			for _, f := range files {
				tree[strings.TrimPrefix(f.Path, "/")] = f.Marked()
			}
			if v, err := verdict(host(tree), Link{Name: name, AltNames: []string{other}, Driver: ENIDriver}); err != nil || v.Unmanaged || len(v.Unsure) > 0 {
				t.Errorf("%s, primary %q: %+v, %v", m, name, v, err)
			}
			if v, err := verdict(host(tree), Link{Name: other, AltNames: []string{name + "x"}, Driver: ENIDriver}); other != name && (err != nil || !v.Unmanaged) {
				t.Errorf("%s, %q beside %q: %+v, %v", m, other, name, v, err)
			}
		}
	})
}

// FuzzConfigs: any text of a config is read without a panic.
func FuzzConfigs(f *testing.F) {
	f.Add("[Match]\nName=!ens5 [a-\n[Link]\nUnmanaged=yes\\\n")
	f.Add("[keyfile]\nunmanaged-devices=except:;driver:e[;interface-name:~*\n")
	f.Fuzz(func(_ *testing.T, text string) {
		tree := host(map[string]string{"etc/systemd/network/05-a.network": text, "etc/systemd/networkd.conf": text, "etc/NetworkManager/NetworkManager.conf": text})
		// Only a panic is a fault here.
		_, _ = NetworkdVerdict(tree, primary())
		_, _ = NetworkManagerVerdict(tree, primary())
		_, _ = ForeignManaged(tree)
	})
}
