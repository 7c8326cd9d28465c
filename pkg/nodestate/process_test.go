package nodestate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// processEnv makes the test binary another process that takes locks.
const processEnv = "MULTI_ENI_TEST_PROCESS"

func TestMain(m *testing.M) {
	spec := os.Getenv(processEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	if err := serve(strings.Fields(spec)); err != nil {
		fmt.Println(err)
	}
}

// process is another process that works in a folder of records.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	// children ends the processes that it has started when it is closed.
	children io.Closer
}

// start runs serve(command) in another process and waits for its first "done".
func start(t *testing.T, command ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	p := &process{t: t, cmd: exec.CommandContext(ctx, "/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), processEnv+"="+strings.Join(command, " "))
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	life, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.ExtraFiles, p.children = []*os.File{life}, end
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	err = p.cmd.Start()
	life.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		p.stdin.Close()
		p.children.Close()
		cancel()
	})
	p.await()
	return p
}

func (p *process) await() {
	p.t.Helper()
	if line, err := p.stdout.ReadString('\n'); line != "done\n" {
		p.t.Fatalf("the other process says %q, %v; want done", line, err)
	}
}

// do has the process carry out one more step.
func (p *process) do(step string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.stdin, step); err != nil {
		p.t.Fatal(err)
	}
	p.await()
}

// kill ends the process as the kernel's OOM killer does, and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill() //nolint:errcheck,gosec // it may have ended already
	p.cmd.Process.Wait() //nolint:errcheck,gosec // killed processes have no other outcome
}

// serve carries out the command, says done, then the steps on standard input.
func serve(command []string) error {
	dir := AttachmentDir(command[1])
	var record *Record
	var heir *Heir
	var err error
	switch command[0] {
	case "begin", "beget", "leave":
		if record, err = dir.Begin(attachment(command[2], command[3])); err != nil {
			return err
		}
		if command[0] != "begin" {
			if heir, err = record.Heir(); err != nil {
				return err
			}
			child := exec.Command("/proc/self/exe")
			child.Env = append(os.Environ(), processEnv+"=wait "+command[1])
			child.Stdin, child.ExtraFiles = os.NewFile(3, "life"), []*os.File{heir.File} // not os.Stdin: it would read steps
			if err := child.Start(); err != nil {
				return err
			}
			program := child
			if command[0] == "leave" { // the child stands for a process that a program has left behind
				program = exec.Command("true")
				program.ExtraFiles = child.ExtraFiles
				if err := program.Start(); err != nil {
					return err
				}
			}
			heir.Started(program.Process.Pid)
			if command[0] == "leave" {
				if err := program.Wait(); err != nil {
					return err
				}
			}
		}
	case "claim":
		unlock, err := dir.LockDevice(context.Background(), device.PCIAddress(command[2]))
		if err != nil {
			return err
		}
		defer unlock()
	case "wait":
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	fmt.Println("done")
	steps := bufio.NewScanner(os.Stdin)
	for steps.Scan() {
		switch steps.Text() {
		case "complete":
			record.State = StateComplete
			err = record.Save()
		case "remove":
			err = record.Remove()
		case "close":
			record.Close()
		case "release":
			heir.Release()
		default:
			err = fmt.Errorf("unknown step %q", steps.Text())
		}
		if err != nil {
			return err
		}
		fmt.Println("done")
	}
	return steps.Err()
}

// attachment is a whole record's content.
func attachment(containerID, ifName string) Attachment {
	return Attachment{
		AttachmentID: AttachmentID{ContainerID: containerID, IfName: ifName},
		Network:      "dataplane", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), BootID: "boot",
		Netns: Netns{Path: "/run/netns/pod", Cookie: 4711, Inode: 4026532000},
		Mode:  ModeExclusive, Config: []byte(`{"name":"dataplane"}`),
		Device: AttachedDevice{PCIAddress: "0000:00:07.0", MAC: "02:00:00:00:00:07"},
	}
}
