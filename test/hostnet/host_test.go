//go:build hostnet

package hostnet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

const (
	vpcNetns = "/run/netns/vpc"
	sysTree  = "/run/tree"
	settle   = 30 * time.Second
	poll     = 20 * time.Millisecond
)

type eni struct {
	name, mac, pci string
	// net is the number of its subnet: 10.0.<net>.0/24 and fd00:<net>::/64.
	net int
	// host is the last part of its primary address.
	host int
	// driver is the recorded sysfs's. This kernel has no ipvlan, and macvlan is refused on ena.
	driver string
}

// The ENIs of the host: the primary, one that pods own, and one that pods share.
var (
	primary = eni{"ens5", "02:00:00:00:00:05", "0000:00:05.0", 0, 15, "ena"}
	owned   = eni{"ens6", "02:00:00:00:00:06", "0000:00:06.0", 1, 16, "ena"}
	shared  = eni{"ens7", "02:00:00:00:00:07", "0000:00:07.0", 2, 17, "virtio_net"}
)

func (e eni) addr() string { return fmt.Sprintf("10.0.%d.%d", e.net, e.host) }
func (e eni) far() string  { return "v" + e.name }

type host struct {
	*testing.T
	watch *output // of ip monitor, from the beginning
	logs  map[string]*output
	// excused are parts of the watch in which a restarted manager may touch the primary.
	excused  [][2]int
	metadata bool
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{T: t, logs: map[string]*output{}}
	t.Cleanup(func() {
		if t.Failed() {
			h.tell()
		}
	})
	for _, dir := range []string{"bus/pci/devices", "bus/pci/drivers", "class/net", "module"} {
		h.do(os.MkdirAll(filepath.Join(sysTree, dir), 0o755))
	}
	h.do(nstest.NewNetns(vpcNetns))
	h.watch = h.start("watch", "ip", "-ts", "-o", "monitor", "link", "address", "route", "rule")
	h.start("watch6", "ip", "-6", "-o", "monitor", "rule") // ip's family decides which rules it hears of
	return h
}

func (h *host) tell() {
	for name, log := range h.logs {
		text := log.String()
		if len(text) > 6000 {
			text = "…" + text[len(text)-6000:]
		}
		h.Logf("log of %s:\n%s", name, text)
	}
	for _, args := range []string{"addr", "route show table all", "-6 route show table all", "rule", "-6 rule"} {
		out, _ := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		h.Logf("ip %s:\n%s", args, out)
	}
}

func (h *host) do(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *host) sh(format string, args ...any) string {
	h.Helper()
	line := fmt.Sprintf(format, args...)
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		h.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (h *host) vpc(format string, args ...any) string {
	h.Helper()
	return h.sh("nsenter --net=%s -- %s", vpcNetns, fmt.Sprintf(format, args...))
}

func (h *host) write(path, content string) {
	h.Helper()
	h.do(os.MkdirAll(filepath.Dir(path), 0o755))
	h.do(os.WriteFile(path, []byte(content), 0o644))
}

func (h *host) eventually(within time.Duration, ok func() string) {
	h.Helper()
	if why := await(within, ok); why != "" {
		h.Fatalf("after %s: %s", within, why)
	}
}

func await(within time.Duration, ok func() string) string {
	from := time.Now()
	for {
		why := ok()
		if why == "" || time.Since(from) > within {
			return why
		}
		time.Sleep(poll)
	}
}

func (h *host) has(word, command string, args ...any) {
	h.Helper()
	h.eventually(settle, func() string {
		out := h.sh(command, args...)
		if strings.Contains(out, word) {
			return ""
		}
		return fmt.Sprintf("%q is not in the output of %s:\n%s", word, fmt.Sprintf(command, args...), out)
	})
}

// output is a program's output; it may be read while the program writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
	cmd *exec.Cmd
	end chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts a program, which runs until stop or the test's end.
func (h *host) start(name, program string, args ...string) *output {
	h.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o := &output{end: make(chan struct{})}
	o.cmd = exec.CommandContext(ctx, program, args...)
	o.cmd.Stdout, o.cmd.Stderr = o, o
	o.cmd.Env = append(os.Environ(), "SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_LEVEL=info", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://"+imdsAddress)
	h.do(o.cmd.Start())
	go func() {
		defer close(o.end)
		o.cmd.Wait() //nolint:errcheck // the test ends it
	}()
	h.Cleanup(cancel)
	h.logs[fmt.Sprintf("%s %d", name, o.cmd.Process.Pid)] = o
	return o
}

func (h *host) stop(o *output) {
	h.Helper()
	h.do(o.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-o.end:
	case <-time.After(settle):
		h.Fatalf("%s does not end", o.cmd.Path)
	}
}

// plug attaches an ENI: PCI function, link and wire. The link has an alternative name, like those of udev.
func (h *host) plug(e eni) {
	h.Helper()
	h.do(sysfstree.Plug(sysTree, sysfstree.Function{
		Address: e.pci, Driver: e.driver, Interfaces: []sysfstree.Interface{{Name: e.name, MAC: e.mac, MTU: 1500}},
	}))
	h.sh("ip link add %s address %s type veth peer %s netns vpc", e.name, e.mac, e.far())
	h.sh("ip link property add dev %s altname enp0s%s", e.name, strings.TrimPrefix(e.name, "ens"))
	h.vpc("sh -c 'echo 0 > /proc/sys/net/ipv6/conf/%s/accept_dad'", e.far())
	h.vpc("ip addr add 10.0.%d.1/24 dev %s", e.net, e.far())
	h.vpc("ip addr add fd00:%d::1/64 dev %s", e.net, e.far())
	h.vpc("ip link set %s up", e.far())
}

// lease starts a DHCP server for plugged ENIs. Leases last an hour; t1 is the time of renewal in seconds.
func (h *host) lease(t1 int, enis ...eni) {
	h.Helper()
	args := []string{"--net=" + vpcNetns, "--", "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--port=0", "--conf-file=/dev/null", "--user=root",
		"--pid-file=",
		"--dhcp-authoritative", "--dhcp-leasefile=/run/dnsmasq.leases", "--bind-dynamic", "--log-dhcp"}
	for _, e := range enis {
		args = append(args, fmt.Sprintf("--dhcp-range=10.0.%d.0,static,3600s", e.net), fmt.Sprintf("--dhcp-host=%s,%s", e.mac, e.addr()))
	}
	if t1 > 0 {
		args = append(args, fmt.Sprintf("--dhcp-option-force=58,%d", t1))
	}
	h.start("dnsmasq", "nsenter", args...)
}

// advertise starts a router on an ENI's far end. With zero intervals it answers solicitations and hardly sends itself.
func (h *host) advertise(e eni, minimum, maximum int) {
	h.Helper()
	if maximum == 0 {
		minimum, maximum = 1350, 1800
	}
	h.vpc("sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'")
	conf := "/run/radvd-" + e.name + ".conf"
	h.write(conf, fmt.Sprintf("interface %s { AdvSendAdvert on; MinRtrAdvInterval %d; MaxRtrAdvInterval %d; AdvDefaultLifetime 1800; prefix fd00:%d::/64 { "+
		"AdvOnLink on; AdvAutonomous on; }; };\n",
		e.far(), minimum, maximum, e.net))
	h.start("radvd "+e.name, "nsenter", "--net="+vpcNetns, "--", "radvd", "--nodaemon", "--config", conf, "--pidfile", "/run/radvd-"+e.name+".pid",
		"--logmethod", "stderr", "--debug", "1")
}
