package hostnet

import (
	"io/fs"
	"strings"
	"testing"
)

// FuzzFiles: whatever the links are called, the files leave the primary ENI alone and match
// the other one.
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
