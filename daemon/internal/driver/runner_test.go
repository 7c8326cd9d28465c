package driver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the child that Runner starts, and a daemon that starts one.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == Command {
		syscall.Exit(child()) // without the report of a test with -cover
	}
	if len(os.Args) == 3 && os.Args[1] == "daemon" {
		os.Exit(daemon(os.Args[2]))
	}
	os.Exit(m.Run())
}

// child acts by the order's driver, in the folder that is its sysfs.
func child() int {
	o, err := DecodeOrder(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	switch o.Driver {
	case "works":
		data, err := json.Marshal(seen())
		if err == nil {
			err = os.WriteFile(filepath.Join(o.Sysfs, "seen"), data, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "fails":
		fmt.Fprintf(os.Stderr, "multi-enid: bind %s: refused\n", o.Address)
		return 1
	case "talks":
		fmt.Fprint(os.Stderr, strings.Repeat("é", maxSaid))
		return 2
	case "silent":
		return 3
	case "dies":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "hangs": // as an unbind does, until the device is let go
		if err := os.WriteFile(filepath.Join(o.Sysfs, "begun"), nil, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for path := filepath.Join(o.Sysfs, "let-go"); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(path); err == nil {
				return 0
			}
		}
	}
	return 0
}

// surroundings are the child's heritage from its parent.
type surroundings struct {
	Env  []string
	Dir  string
	Lock string // the file that LockFD is
	Lead bool   // the child leads its group
}

func seen() surroundings {
	dir, _ := os.Getwd()
	lock, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", LockFD))
	return surroundings{Env: os.Environ(), Dir: dir, Lock: lock, Lead: syscall.Getpgrp() == os.Getpid()}
}

// daemon has an order carried out that hangs, and says so.
func daemon(folder string) int {
	lock, err := lockFile(filepath.Join(folder, "lock"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("at work")
	if err := (Runner{Program: os.Args[0]}).Do(Order{Address: nic, Driver: "hangs", Sysfs: folder}, lock); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1 // it should not have got here
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func program(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	return path
}

func TestRunner(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not for the child")
	folder := t.TempDir()
	lock, err := lockFile(filepath.Join(folder, "lock"))
	must(t, err)
	var stderr bytes.Buffer
	r := Runner{Program: program(t), Stderr: &stderr}
	do := func(driver string) error { return r.Do(Order{Address: nic, Driver: driver, Sysfs: folder}, lock) }
	must(t, do("works"))
	data, err := os.ReadFile(filepath.Join(folder, "seen"))
	must(t, err)
	var got surroundings
	must(t, json.Unmarshal(data, &got))
	same(t, "child", surroundings{Env: []string{}, Dir: "/", Lock: lock.Name(), Lead: true}, got)
	for driver, want := range map[string]string{
		"fails":  "bind 0000:00:06.0: refused",
		"silent": "for 0000:00:06.0: exit status 3",
		"dies":   "for 0000:00:06.0: signal: killed",
	} {
		if err := do(driver); err == nil || !strings.HasSuffix(err.Error(), want) || driver == "fails" && err.Error() != want {
			t.Errorf("%s: error %v, want %q", driver, err, want)
		}
	}
	stderr.Reset()
	if err := do("talks"); err == nil || len(err.Error()) > maxSaid || !strings.HasPrefix(err.Error(), "éé") {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
	if got := stderr.Len(); got != 2*maxSaid {
		t.Errorf("Stderr got %d bytes, want %d", got, 2*maxSaid)
	}
	r.Program = filepath.Join(folder, "none")
	if err := do("works"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v", err)
	}
}

// A child that hangs outlives the daemon, whether that is asked to end with its
// whole process group or killed, and keeps the device's lock until it is done.
func TestRunnerOutlivesTheDaemon(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			folder := t.TempDir()
			cmd := exec.Command(program(t), "daemon", folder)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatal(line, err)
			}
			eventually(t, "the daemon's child has not begun", func() bool {
				_, err := os.Stat(filepath.Join(folder, "begun"))
				return err == nil
			})
			must(t, syscall.Kill(-cmd.Process.Pid, signal))
			if err := cmd.Wait(); err == nil {
				t.Fatal("the daemon has ended by itself")
			}
			path := filepath.Join(folder, "lock")
			if f, err := lockFile(path); !errors.Is(err, unix.EWOULDBLOCK) {
				if f != nil {
					f.Close()
				}
				t.Errorf("the lock of a child at work: error %v", err)
			}
			must(t, os.WriteFile(filepath.Join(folder, "let-go"), nil, 0o600))
			eventually(t, "the child keeps the lock", func() bool {
				f, err := lockFile(path)
				if err != nil {
					return false
				}
				f.Close()
				return true
			})
		})
	}
}

func eventually(t *testing.T, otherwise string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
	}
}
