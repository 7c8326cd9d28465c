// Command launch runs a program and writes "CHILD OWN" to file descriptor 3: the peak resident set of the program,
// and of launch itself, in KiB.
//
// execve(2) passes the peak of the old memory on to the new program, so wait4(2) never reports less than the
// caller's peak. This program stands between, and is small: without fmt, without os/exec.
package main

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		os.Stderr.WriteString("launch: " + err.Error() + "\n") //nolint:errcheck,gosec // nowhere left to report
	}
	os.Exit(code)
}

func run(argv []string) (int, error) {
	if len(argv) == 0 {
		return 2, syscall.EINVAL
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 2, err
	}
	var status syscall.WaitStatus
	var usage syscall.Rusage
	for {
		_, err := syscall.Wait4(pid, &status, 0, &usage)
		if err == nil {
			break
		}
		if err != syscall.EINTR {
			return 2, err
		}
	}
	own, err := peak()
	if err != nil {
		return 2, err
	}
	report := strconv.FormatInt(usage.Maxrss, 10) + " " + own + "\n"
	if _, err := syscall.Write(3, []byte(report)); err != nil {
		return 2, err
	}
	return status.ExitStatus(), nil
}

// peak is this program's own VmHWM (proc_pid_status(5)), in KiB. Its rusage would include its parent's.
func peak() (string, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	_, rest, _ := bytes.Cut(data, []byte("VmHWM:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return "", syscall.ENOENT
	}
	return string(fields[0]), nil
}
