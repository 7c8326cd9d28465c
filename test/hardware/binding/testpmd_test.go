package binding

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// A DPDK application in a pod receives and sends. The device stays until it ends, with or without DEL.
func TestDPDKApplication(t *testing.T) {
	guest.Clean(t)
	c := prepare(t, macC, "ens-c", true)
	peer := newPeer(t, "10.0.3.1/24")
	start(t, nil, eniC())
	guest.WriteNodeENI(t, "c", dpdk(eniC(), "vfio-pci"))
	c.bound(t, eniC(), "vfio-pci")
	pod := newPod(t, "pod", fmt.Sprintf(`"deviceID":%q`, c.pci), "10.0.3.10/24")
	guest.MustAdd(t, pod)

	app := startTestpmd(t, pod.Netns, c.pci)
	const pings = 20
	guest.In(t, peer, func() {
		if answers, err := ping("10.0.3.10", pings); answers < pings {
			t.Errorf("%d answers to %d pings, %v\n%s", answers, pings, err, app.output())
		}
	})

	guest.MustDel(t, pod) // a runtime may be early
	guest.RemoveNodeENI(t, "c")
	problem(t, "DeviceOpen", c.pci, "/dev/vfio/"+group(t, c.pci))
	if got := guest.Row(t, eniC().ID).Phase; got != nodestate.PhaseDraining {
		t.Errorf("phase %q while the application runs, want draining", got)
	}
	guest.In(t, peer, func() {
		if answers, err := ping("10.0.3.10", 1); answers != 1 {
			t.Errorf("the application works no longer: %v", err)
		}
	})
	received, sent := app.quit()
	t.Logf("dpdk-testpmd has received %d packets and sent %d", received, sent)
	if received < pings || sent < pings {
		t.Errorf("dpdk-testpmd has received %d packets and sent %d, want %d at least\n%s", received, sent, pings, app.output())
	}
	c.restored(t)
	c.withdrawn(t, eniC())
	l, ok := guest.ByName(c.before.Name)
	if !ok {
		t.Fatal("no link")
	}
	addr, err := netlink.ParseAddr("10.0.3.20/24")
	guest.Must(t, err)
	try(t, netlink.AddrAdd(l, addr))
	guest.Talk(t, "", peer, "10.0.3.20:7000")
	try(t, netlink.AddrDel(l, addr))
}

// testpmd is a running dpdk-testpmd, which answers ARP requests and pings to any address.
type testpmd struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu   sync.Mutex
	text bytes.Buffer
}

// Write takes the program's output.
func (p *testpmd) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *testpmd) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// startTestpmd starts it on one device as a pod's process, with only the device plugin's part of the node.
func startTestpmd(t *testing.T, netns, pci string) *testpmd {
	t.Helper()
	return runTestpmd(t, netns, exec.Command("dpdk-testpmd", testpmdArgs(pci)...))
}

func testpmdArgs(pci string) []string {
	return []string{
		"--lcores", "0@0,1@0", "-n", "1", "--in-memory", "--no-telemetry", "-m", "96", "-a", pci, "--",
		"--forward-mode=icmpecho", "--nb-cores=1", "--total-num-mbufs=4096", "--rxd=256", "--txd=256", "--auto-start", "-i",
	}
}

func runTestpmd(t *testing.T, netns string, cmd *exec.Cmd) *testpmd {
	t.Helper()
	p := &testpmd{t: t, cmd: cmd}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	guest.In(t, netns, func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatalf("start dpdk-testpmd: %v", err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill() //nolint:errcheck,gosec // it may have ended by itself
			p.cmd.Wait()         //nolint:errcheck,gosec // a signal is no success
		}
	})
	p.await("Start automatic packet forwarding")
	return p
}

func (p *testpmd) await(text string) {
	p.t.Helper()
	for began := time.Now(); !strings.Contains(p.output(), text); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > soon {
			p.t.Fatalf("dpdk-testpmd does not say %q:\n%s", text, p.output())
		}
	}
}

func (p *testpmd) tell(command string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, command+"\n"); err != nil {
		p.t.Fatalf("tell dpdk-testpmd to %s: %v", command, err)
	}
}

// quit ends it, and returns received and sent packets from its own statistics, which it prints only at its end.
func (p *testpmd) quit() (received, sent int) {
	p.t.Helper()
	p.tell("show port stats 0")
	p.tell("quit")
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("dpdk-testpmd: %v\n%s", err, p.output())
	}
	for counter, to := range map[string]*int{"RX": &received, "TX": &sent} {
		m := regexp.MustCompile(`NIC statistics for port 0(?s:.*?)` + counter + `-packets: *(\d+)`).FindStringSubmatch(p.output())
		if m == nil {
			p.t.Fatalf("no %s statistics in:\n%s", counter, p.output())
		}
		*to, _ = strconv.Atoi(m[1]) // digits
	}
	return received, sent
}

// ping sends echo requests (RFC 792) from the thread's netns until n were answered, and returns the answers.
func ping(address string, n int) (answers int, err error) {
	to, err := net.ResolveIPAddr("ip4", address)
	if err != nil {
		return 0, err
	}
	c, err := net.DialIP("ip4:icmp", nil, to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return 0, err
	}
	var last error
	for began := time.Now(); answers < n && time.Since(began) < soon; {
		request := echoRequest(uint16(answers))
		if _, err := c.Write(request); err != nil {
			last = err // no ARP answer yet
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if last = awaitReply(c, request); last == nil {
			answers++
		}
	}
	return answers, last
}

func awaitReply(c *net.IPConn, request []byte) error {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n == len(request) && buf[0] == 0 && bytes.Equal(buf[4:n], request[4:]) { // type 0, and the sent bytes
			return nil
		}
	}
}

// echoRequest is an ICMP message of type 8 with a checksum (RFC 1071).
func echoRequest(sequence uint16) []byte {
	m := append([]byte{8, 0, 0, 0, 0x4d, 0x45, byte(sequence >> 8), byte(sequence)}, "multi-eni!"...)
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(m[i])<<8 | uint32(m[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	m[2], m[3] = byte(^sum>>8), byte(^sum)
	return m
}
