// Package guest has the tests' helpers inside a machine: its hardware, its kernel, and the product as a runtime and a
// node operator use it. Every function fails the test with the name of its object. They work only inside a machine.
package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
)

// requestTime bounds a request to the host. The host's own limit is shorter and has a better message.
const requestTime = 45 * time.Second

// port is the connection to the host, one for the whole process. It is safe for concurrent use.
type port struct {
	open func() error

	mu      sync.Mutex
	file    *os.File
	number  int
	waiting map[int]chan protocol.Reply
}

// host is shared by all tests of the process, as the serial line is.
var host = newPort()

func newPort() *port {
	p := &port{waiting: map[int]chan protocol.Reply{}}
	p.open = sync.OnceValue(p.connect)
	return p
}

func (p *port) connect() error {
	f, err := os.OpenFile(protocol.RequestPort, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := makeRaw(int(f.Fd())); err != nil {
		return errors.Join(err, f.Close())
	}
	p.file = f
	go p.read()
	return nil
}

// makeRaw makes the kernel pass bytes on unchanged (termios(3), cfmakeraw).
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the serial port's settings: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("set the serial port up: %w", err)
	}
	return nil
}

func (p *port) read() {
	in := bufio.NewReader(p.file)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return // requests run into their limit
		}
		var r protocol.Reply
		if err := json.Unmarshal(line, &r); err != nil {
			continue // the request runs into its limit
		}
		p.mu.Lock()
		if c, ok := p.waiting[r.Number]; ok {
			c <- r
			delete(p.waiting, r.Number)
		}
		p.mu.Unlock()
	}
}

func (p *port) request(r protocol.Request) error {
	if err := p.open(); err != nil {
		return fmt.Errorf("reach the host: %w", err)
	}
	c := make(chan protocol.Reply, 1)
	p.mu.Lock()
	p.number++
	r.Number = p.number
	p.waiting[r.Number] = c
	text, err := json.Marshal(r)
	if err == nil {
		_, err = p.file.Write(append(text, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ask the host: %w", err)
	}
	select {
	case reply := <-c:
		if reply.Error != "" {
			return errors.New(reply.Error)
		}
		return nil
	case <-time.After(requestTime):
		return fmt.Errorf("no answer from the host within %v", requestTime)
	}
}

// Attach plugs an e1000e into a slot ("slot0" to "slot7"). It returns before the guest's kernel has found it.
func Attach(t testing.TB, id, slot, mac string) {
	t.Helper()
	if err := host.request(protocol.Request{Op: protocol.Attach, ID: id, Slot: slot, MAC: mac}); err != nil {
		t.Fatalf("attach NIC %s to %s: %v", id, slot, err)
	}
}

// Detach pulls the NIC out, and returns when the kernel has released it.
func Detach(t testing.TB, id string) {
	t.Helper()
	if err := host.request(protocol.Request{Op: protocol.Detach, ID: id}); err != nil {
		t.Fatalf("detach NIC %s: %v", id, err)
	}
}

// Record lets the host write a file in the test's folder, or elsewhere in the repository's test folder,
// when the tests run with -update. The test package defines that flag.
func Record(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := host.request(protocol.Request{Op: protocol.Record, Name: name, Data: data}); err != nil {
		t.Fatalf("record %s: %v", name, err)
	}
}

// Boot is the number of this boot, from 1.
func Boot() int {
	n, err := strconv.Atoi(os.Getenv(protocol.BootEnv))
	if err != nil {
		return 0 // not in a machine
	}
	return n
}

// Reboot ends this boot at once, like a power failure; no cleanup runs. The machine boots again with the
// files and folders of keep as they are now, and begins with the top-level test that called. Boot tells
// the test where it is. Hot-plugged NICs stay.
func Reboot(t testing.TB, keep ...string) {
	t.Helper()
	RebootMoved(t, nil, keep...)
}

// RebootMoved is Reboot with NICs moved to other slots by ID, also NICs that began outside the hot-plug slots.
func RebootMoved(t testing.TB, moves map[string]string, keep ...string) {
	t.Helper()
	if t.Failed() {
		t.FailNow() // the next boot would not know
	}
	kept, err := archive(keep)
	if err != nil {
		t.Fatalf("keep files over a reboot: %v", err)
	}
	run, err := remaining(t.Name())
	if err != nil {
		t.Fatalf("find the tests of the next boot: %v", err)
	}
	if err := host.request(protocol.Request{Op: protocol.Reboot, Moves: moves, Kept: kept, Run: run}); err != nil {
		t.Fatalf("reboot: %v", err)
	}
	fmt.Printf("=== REBOOT %s\n", t.Name())
	os.Exit(protocol.RebootStatus)
}

// remaining is the -test.run of a boot that begins with the top-level test of name and goes on with the later ones.
func remaining(name string) (string, error) {
	top, _, _ := strings.Cut(name, "/")
	pattern, parts := ".", ""
	for _, a := range os.Args[1:] {
		if p, ok := strings.CutPrefix(a, "-test.run="); ok && p != "" {
			if i := strings.Index(p, "/"); i >= 0 {
				p, parts = p[:i], p[i:]
			}
			pattern = p
		}
	}
	out, err := exec.Command("/proc/self/exe", "-test.list="+pattern).Output()
	if err != nil {
		return "", err
	}
	return runFrom(top, strings.Fields(string(out)), parts)
}

// runFrom is the pattern of the tests in names from first on, followed by parts, the pattern of their subtests.
func runFrom(first string, names []string, parts string) (string, error) {
	for i, n := range names {
		if n != first {
			continue
		}
		var quoted []string
		for _, n := range names[i:] {
			quoted = append(quoted, regexp.QuoteMeta(n))
		}
		return "^(" + strings.Join(quoted, "|") + ")$" + parts, nil
	}
	return "", fmt.Errorf("%s is not among the tests %q", first, names)
}
