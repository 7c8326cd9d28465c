package main

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/install"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// managed is a machine on whose host a network manager runs, with two ENIs.
type managed struct {
	*machine
	installation
	t    *testing.T
	root string
}

func newManaged(t *testing.T, unit string) managed {
	t.Helper()
	m := managed{newMachine(t, 1), newInstallation(t), t, filepath.Join(t.TempDir(), "host")}
	m.run(unit)
	return m
}

// run makes the host, with a unit that runs.
func (m managed) run(unit string) {
	m.t.Helper()
	must(m.t, os.MkdirAll(m.host("sys/fs/cgroup/system.slice/"+unit), 0o755))
	m.put("etc/hostname", "node-a")
}

func (m managed) host(path string) string { return filepath.Join(m.root, path) }

func (m managed) put(path, content string) {
	m.t.Helper()
	must(m.t, os.MkdirAll(filepath.Dir(m.host(path)), 0o755))
	must(m.t, os.WriteFile(m.host(path), []byte(content), 0o600))
}

func (m managed) read(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(m.host(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	return string(data)
}

func (m managed) write(mode string) (code int, stdout, stderr string) {
	return m.install("--host-network="+mode, "--host-root="+m.host(""))
}

func (m managed) says(mode string, lines ...string) {
	m.t.Helper()
	code, stdout, stderr := m.write(mode)
	for _, line := range lines {
		if code != 0 || !strings.Contains(stdout, line+"\n") {
			m.t.Errorf("--host-network=%s: exit code %d, %q; it lacks %q\n%s", mode, code, stderr, line, stdout)
		}
	}
}

const (
	networkFile  = "etc/systemd/network/05-multi-eni.network"
	networkdConf = "etc/systemd/networkd.conf.d/80-multi-eni.conf"
	managerConf  = "etc/NetworkManager/conf.d/80-multi-eni.conf"
)

// TestHostNetwork: the files name the link that has the primary ENI's MAC, also after a rename. Foreign and edited files stay.
func TestHostNetwork(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newManaged(t, "systemd-networkd.service")
	m.says("leave")
	if _, err := os.Stat(m.host("etc/systemd")); err == nil {
		t.Error("a folder was made without --host-network")
	}
	m.says("write", "/"+networkFile+": written, in effect after a reboot or `systemctl restart systemd-networkd`",
		"/"+networkdConf+": written, in effect after a reboot or `systemctl restart systemd-networkd`")
	if got := m.read(networkFile); !strings.Contains(got, "\nProperty=!INTERFACE=eth0\n") {
		t.Errorf("file:\n%s", got)
	}
	if info, err := os.Stat(m.host(networkFile)); err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(m.host("etc/NetworkManager")); err == nil {
		t.Error("a folder was made for a manager that does not run")
	}
	m.says("write", "/"+networkFile+": as it should be", "/"+networkdConf+": as it should be")

	links, err := link.Open()
	must(m.t, err)
	defer links.Close()
	index, err := links.Index("eth0")
	must(m.t, err)
	must(m.t, links.Rename(index, "ens5"))
	m.says("write", "/"+networkFile+": written, in effect after a reboot or `systemctl restart systemd-networkd`", "/"+networkdConf+": as it should be")
	if got := m.read(networkFile); !strings.Contains(got, "\nProperty=!INTERFACE=ens5\n") {
		t.Errorf("file:\n%s", got)
	}

	edited := m.read(networkFile) + "# mine\n"
	m.put(networkFile, edited)
	m.put(networkdConf, "[Network]\n")
	kept := []string{"/" + networkFile + ": kept, somebody has edited it", "/" + networkdConf + ": kept, multi-enid has not written it"}
	for _, mode := range []string{"write", "remove"} {
		m.says(mode, kept...)
		if m.read(networkFile) != edited || m.read(networkdConf) != "[Network]\n" {
			t.Errorf("%s: a file was changed", mode)
		}
	}
	// The file that docs/migration.md once gave.
	m.put(networkFile, "[Match]\nDriver=ena\nName=!ens5\n[Link]\nUnmanaged=yes\n")
	ens5, err := netlink.LinkByName("ens5")
	must(m.t, err)
	must(m.t, netlink.LinkAddAltName(ens5, "enp0s5"))
	m.says("write", "warning: /"+networkFile+": makes systemd-networkd leave the primary ENI's link ens5 alone: remove it before the node starts again",
		"/"+networkFile+": kept, multi-enid has not written it")
	must(m.t, os.Remove(m.host(networkFile)))
	must(m.t, os.Remove(m.host(networkdConf)))
	must(m.t, os.Symlink("../../hostname", m.host(networkdConf)))
	m.says("write", kept[1])
	if m.read("etc/hostname") != "node-a" {
		t.Error("a symbolic link was followed")
	}
	m.says("remove", "/"+networkFile+": removed", kept[1])
	if m.read(networkFile) != "" {
		t.Error("the file is there")
	}
}

// TestHostNetworkOfNetworkManager, and that uninstall removes the file.
func TestHostNetworkOfNetworkManager(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newManaged(t, "NetworkManager.service")
	m.says("write", "/"+managerConf+": written, in effect after a reboot or `nmcli general reload`")
	if got := m.read(managerConf); !strings.HasSuffix(got, "\n[keyfile]\nunmanaged-devices=driver:ena;except:interface-name:eth0\n") {
		t.Errorf("file:\n%s", got)
	}
	u := newUninstallable(t)
	code, stdout, stderr := u.run("--host-root=" + m.host(""))
	if code != 0 || !strings.Contains(stdout, "/"+managerConf+": removed\n") || m.read(managerConf) != "" {
		t.Errorf("exit code %d, %s, %s", code, stdout, stderr)
	}
}

// TestHostNetworkIsNoGuess: if the primary ENI is not known for sure, install writes no file, and installs the plugin all the same.
func TestHostNetworkIsNoGuess(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	first := newManaged(t, "systemd-networkd.service")
	for _, tt := range []struct {
		name   string
		happen func(m managed)
		says   string
	}{
		{"not seen", func(m managed) { must(m.t, os.RemoveAll(m.host("sys/fs"))) }, "does not show the control groups"},
		{"elsewhere", func(m managed) { must(m.t, os.Symlink("/tmp", m.host("etc/systemd"))) }, "escapes"},
		{"odd name", func(m managed) { rename(m, "eth0", "ens*", false) }, `"ens*"`},
		{"no link", func(m managed) { rename(m, "ens*", "", true) }, "0 links have its MAC"},
		{"no IMDS", func(m managed) { m.imds.Fault("meta-data/mac", fakeimds.Fault{Status: http.StatusForbidden}) }, "find the primary ENI"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := managed{first.machine, newInstallation(t), t, filepath.Join(t.TempDir(), "host")}
			m.run("systemd-networkd.service")
			tt.happen(m)
			code, stdout, stderr := m.write("write")
			if code != cli.Failure || !strings.Contains(stderr, tt.says) || !strings.Contains(stdout, "installed") {
				t.Errorf("exit code %d, %q, %q; want %q", code, stdout, stderr, tt.says)
			}
			if m.read(networkFile) != "" {
				t.Errorf("a file was written")
			}
		})
	}
	m := managed{first.machine, newInstallation(t), t, filepath.Join(t.TempDir(), "host")}
	m.run("sshd.service")
	m.says("write", "host network: neither systemd-networkd nor NetworkManager runs, nothing to write")
	if code, _, stderr := m.write("perhaps"); code != cli.Usage || !strings.Contains(stderr, "--host-network") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func rename(m managed, name, to string, remove bool) {
	links, err := link.Open()
	must(m.t, err)
	defer links.Close()
	index, err := links.Index(name)
	must(m.t, err)
	if remove {
		must(m.t, links.Delete(index))
		return
	}
	must(m.t, links.Rename(index, to))
}

// TestShippedHostNetwork: install takes the flags that the component gives it, and uninstall looks where the Job has the host's files.
func TestShippedHostNetwork(t *testing.T) {
	var installer, job struct {
		Spec struct {
			Template struct {
				Spec struct{ Containers []struct{ Args []string } }
			}
		}
	}
	var patch []struct{ Value string }
	shipped(t, "installer.yaml", &installer)
	shipped(t, "components/host-network/installer-args.yaml", &patch)
	shipped(t, "uninstall/job.yaml", &job)
	args := installer.Spec.Template.Spec.Containers[0].Args[1:]
	for _, p := range patch {
		args = append(args, p.Value)
	}
	p := program{getenv: func(string) string { return "" }}
	flags := p.installCommand(t.Context()).Flags()
	if err := flags.Parse(args); err != nil || flags.Lookup("host-network").Value.String() != install.HostWrite {
		t.Errorf("install %q: %v", args, err)
	}
	uninstall := p.uninstallCommand().Flags()
	err := uninstall.Parse(job.Spec.Template.Spec.Containers[0].Args[1:])
	if root := uninstall.Lookup("host-root").Value.String(); err != nil || root != flags.Lookup("host-root").Value.String() {
		t.Errorf("uninstall looks below %s, %v", root, err)
	}
}
