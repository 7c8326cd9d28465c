//go:build hostnet

package hostnet

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const insideEnv = "MULTI_ENI_HOSTNET_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "only root may start network managers: sudo make test-hostnet")
		os.Exit(1)
	}
	before := machine()
	code := m.Run()
	if after := machine(); after != before {
		fmt.Fprintf(os.Stderr, "the machine's own network changed:\nbefore:\n%s\nafter:\n%s\n", before, after)
		code = 1
	}
	os.Exit(code)
}

var lifetimes = regexp.MustCompile(`(valid_lft|preferred_lft|expires) \d+sec`)

// machine is the machine's own links, addresses, routes, rules and processes.
func machine() string {
	var b strings.Builder
	for _, args := range []string{"-o link", "-o addr", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule", "netns"} {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		fmt.Fprintf(&b, "ip %s: %v\n%s", args, err, lifetimes.ReplaceAll(out, nil))
	}
	return b.String()
}

// outside runs the calling top-level test again as PID 1 of new namespaces, and returns true. There it returns false.
func outside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		return false
	}
	t.Parallel()
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.count=1", "-test.v"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+fmt.Sprint(time.Until(deadline).Round(time.Second)))
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil {
		t.Fatalf("in its own namespaces: %v\n%s", err, text)
	} else if testing.Verbose() {
		t.Log(text)
	}
	return true
}

// rules are udev's rules for links without Debian's 85-nm-unmanaged.rules, which keeps NetworkManager from veth.
var rules = []string{"75-net-description.rules", "80-net-setup-link.rules"}

// prepare gives the host its own folders. With /run/systemd/system udevd, a child of PID 1, would kill its control group.
func prepare() error {
	if err := nstest.Prepare(); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Otherwise processes of another namespace see the machine's /proc/sys/net.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := unix.Sethostname([]byte("host")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	script := `set -e
cp -a /etc /run/etc
rm -rf /run/etc/multi-eni /run/etc/systemd/network /run/etc/systemd/networkd.conf* /run/etc/NetworkManager /run/etc/udev /run/etc/resolv.conf
mkdir -p /run/etc/systemd/network /run/etc/systemd/networkd.conf.d /run/etc/NetworkManager/conf.d /run/etc/udev/rules.d /run/var /run/log
touch /run/etc/resolv.conf
echo 0123456789abcdef0123456789abcdef > /run/etc/machine-id
mount --bind /run/etc /etc
mkdir -p /run/lib/rules /run/lib/network
for r in ` + strings.Join(rules, " ") + `; do cp /lib/udev/rules.d/$r /run/lib/rules; done
cp /lib/systemd/network/99-default.link /run/lib/network
mount --bind /run/lib/rules /lib/udev/rules.d
mount --bind /run/lib/network /lib/systemd/network
mkdir -p /run/netns
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
mkdir -p /var/lib/NetworkManager /var/lib/misc /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("prepare folders: %w\n%s", err, out)
	}
	return nil
}
