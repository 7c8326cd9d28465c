package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Daemon is bin/multi-enid, running for a Node. Methods that take a test end it on failure.
type Daemon struct {
	argv []string
	env  []string
	log  string
	proc *plane.Process // nil while it is down
}

// LogLine is one line of the daemon's log.
type LogLine struct {
	Time   time.Time
	Level  string
	Msg    string
	Fields map[string]any // the others
	Raw    string
}

// String is the line as it was written.
func (l LogLine) String() string { return l.Raw }

// StartDaemon runs the daemon with these flags, which override the required ones. A failed test shows its log.
func (n *Node) StartDaemon(t testing.TB, flags ...string) *Daemon {
	t.Helper()
	bin, err := nstest.Binary("multi-enid")
	if err != nil {
		Unavailable(t, err.Error())
	}
	d := &Daemon{
		log: filepath.Join(n.Dir, "multi-enid.log"),
		argv: append([]string{
			bin, "run", "--node-name=" + n.Name, "--nodeeni-source=kube", "--kubeconfig=" + n.cluster.WriteKubeconfig(t),
			"--sysfs=" + n.Sysfs, "--pcidp-config=" + n.ConfigPath(), "--inventory=" + n.inventoryPath(),
			"--state-dir=" + filepath.Join(n.Dir, "state"), "--attachments-dir=" + string(n.AttachmentsDir()), "--log-format=json",
		}, flags...),
		env: []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + n.IMDS.URL},
	}
	t.Cleanup(func() {
		d.proc.Kill()
		if t.Failed() {
			t.Logf("log of multi-enid:\n%s", d.raw())
		}
	})
	d.Start(t)
	return d
}

// Start runs the daemon again after Kill9 or Term. Its log continues.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	var err error
	if d.proc, err = plane.StartProcess(d.log, d.env, d.argv...); err != nil {
		t.Fatal(err)
	}
}

// Kill9 ends the daemon as the kernel does when memory is short.
func (d *Daemon) Kill9() {
	d.proc.Kill()
}

// Term ends the daemon as the kubelet does. The test fails unless it exits with 0.
func (d *Daemon) Term(t testing.TB) {
	t.Helper()
	if err := d.proc.Stop(); err != nil {
		t.Fatalf("%v\n%s", err, d.raw())
	}
}

// Runs says whether the process is running.
func (d *Daemon) Runs() bool {
	select {
	case <-d.proc.Exited():
		return false
	default:
		return true
	}
}

// Log returns the complete lines of the log, of every run.
func (d *Daemon) Log(t testing.TB) []LogLine {
	t.Helper()
	var out []LogLine
	for line := range bytes.Lines(d.raw()) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		l := LogLine{Raw: strings.TrimSpace(string(line))}
		if err := json.Unmarshal(line, &l.Fields); err != nil {
			t.Fatalf("log of multi-enid: %v: %s", err, line)
		}
		l.Level, l.Msg = l.text("level"), l.text("msg")
		l.Time, _ = time.Parse(time.RFC3339Nano, l.text("time")) // zero if it has none
		for _, taken := range []string{"level", "msg", "time"} {
			delete(l.Fields, taken)
		}
		out = append(out, l)
	}
	return out
}

func (l LogLine) text(key string) string {
	s, _ := l.Fields[key].(string) // "" for anything else
	return s
}

// LogSince returns the lines after the first n, such as the lines of one step.
func (d *Daemon) LogSince(t testing.TB, n int) []LogLine {
	t.Helper()
	return d.Log(t)[n:]
}

func (d *Daemon) raw() []byte {
	data, err := os.ReadFile(d.log)
	if err != nil {
		return []byte(err.Error())
	}
	return data
}

// DaemonGet asks the running daemon for a path of its default address, such as "metrics" or "readyz". It returns the status code and the body, or an error
// where nothing answers.
func DaemonGet(t testing.TB, path string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:9616/"+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// RSS is the daemon's resident set, in bytes (proc_pid_status(5), VmRSS).
func (d *Daemon) RSS(t testing.TB) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.proc.PID()))
	Must(t, err)
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatal("the daemon's /proc status has no VmRSS")
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	Must(t, err)
	return kib << 10
}

// clockTick is the unit of the times in /proc/PID/stat on every architecture that Go supports (USER_HZ).
const clockTick = 10 * time.Millisecond

// CPU is the processor time of the present run, to 10 ms (proc_pid_stat(5), utime and stime).
func (d *Daemon) CPU(t testing.TB) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.proc.PID()))
	Must(t, err)
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const utime, stime = 11, 12 // after the command's closing bracket
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		Must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * clockTick
}
