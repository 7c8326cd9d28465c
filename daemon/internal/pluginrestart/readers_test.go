package pluginrestart

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

var (
	readersSeed = flag.Uint64("readers-seed", 0, "seed of the first story of TestWhoeverReadAnotherConfigIsRestarted; 0 stands for one by the clock")
	readersRuns = flag.Int("readers-stories", 10_000, "how many stories it plays")
)

// TestStatConfig: every way to replace the content of a file shows, also if the modification time is set.
func TestStatConfig(t *testing.T) {
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	write := func(path, content string) error { return os.WriteFile(path, []byte(content), 0o644) }
	for name, change := range map[string]func(path string) error{
		"mv":    func(p string) error { return os.Rename(filepath.Join(filepath.Dir(p), "kept"), p) },
		"cp -p": func(p string) error { return errors.Join(write(p, "A"), os.Chtimes(p, old, old)) },
		"rsync -a": func(p string) error {
			return errors.Join(write(p+".x", "A"), os.Chtimes(p+".x", old, old), os.Rename(p+".x", p))
		},
		"touch -d": func(p string) error { return os.Chtimes(p, old, old) },
		"chmod":    func(p string) error { return os.Chmod(p, 0o600) },
		"ln":       func(p string) error { return os.Link(p, p+".linked") },
		"mv of a folder": func(p string) error {
			return errors.Join(os.Rename(filepath.Dir(p), filepath.Dir(p)+".away"), os.Rename(filepath.Dir(p)+".kept", filepath.Dir(p)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pcidp")
			path := filepath.Join(dir, "config.json")
			for _, folder := range []string{dir, dir + ".kept"} {
				if err := errors.Join(os.Mkdir(folder, 0o755), write(filepath.Join(folder, "kept"), "A"), write(filepath.Join(folder, "config.json"), "A")); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chtimes(filepath.Join(dir, "kept"), old, old); err != nil {
				t.Fatal(err)
			}
			before := statConfig(path)
			again := statConfig(path)
			tick(t)
			if !before.SameFile(again) || before.Inode == 0 {
				t.Fatalf("untouched: %+v, then %+v", before, again)
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			if after := statConfig(path); after.SameFile(before) || !after.Since.After(before.Since) {
				t.Errorf("%+v, then %+v", before, after)
			}
		})
	}
	if got := statConfig(filepath.Join(t.TempDir(), "none")); got != (nodestate.SeenConfig{}) {
		t.Errorf("no file: %+v", got)
	}
}

// tick waits until the kernel's clock for files has moved on.
func tick(t *testing.T) {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	var first time.Time
	for {
		if err := os.WriteFile(probe, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		now := statConfig(probe).Changed
		if first.IsZero() {
			first = now
		}
		if now.After(first) {
			return
		}
		os.Remove(probe) //nolint:errcheck,gosec // it is written anew
		runtime.Gosched()
	}
}

// readers is a node's config file and its device plugin, while people change the one, the other restarts, and daemons
// come and go. Passed is the time that has passed, and the wall clock is that plus skew.
type readers struct {
	mu           sync.Mutex
	rng          *rand.Rand
	passed, skew time.Duration
	back         bool // the clock was set back

	file, backup diskFile
	folder       time.Time
	inodes       uint64
	touched      time.Duration // when the file was last changed in any way
	looked       time.Duration // when a daemon first looked at it since; 0 for not yet

	run     pluginRun
	keep    *Restarter // nil while no daemon runs
	disk    []byte     // the checkpoint
	useless int        // restarts of a run that had read the config and could be known to
	story   []string
}

type diskFile struct {
	content string
	inode   uint64
	changed time.Time
}

// pluginRun is one run of the device plugin, which reads its config once.
type pluginRun struct {
	number        int
	wall          time.Time
	started, read time.Duration
	content       string // "" until it has read
	sure          bool   // the file had settled before the start, and a running daemon had seen it
}

func (r *readers) now() time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(r.passed + r.skew)
}

func (r *readers) pass(d time.Duration) {
	r.passed += d
	if r.run.content == "" && r.passed >= r.run.read {
		r.run.content = r.file.content
	}
}

// put has people put a content into the file's place, in one of five ways.
func (r *readers) put(content string, how int) string {
	r.touched, r.looked = r.passed, 0
	was := r.file
	r.file.content, r.file.changed = content, r.now()
	switch how {
	case 0:
		return "write " + content
	case 1:
		r.inodes++
		r.file.inode, r.folder = r.inodes, r.now()
		return "replace by " + content
	case 2:
		was.changed = r.now()
		r.file, r.backup, r.folder = diskFile{r.backup.content, r.backup.inode, r.now()}, was, r.now()
		return "swap with a kept file of " + r.file.content
	case 3: // the whole folder, with a file that was there before
		r.file, r.backup, r.folder = r.backup, was, r.now()
		return "swap folders for " + r.file.content
	default: // of which neither file nor folder tells
		r.file, r.backup = r.backup, was
		return "mount over it " + r.file.content
	}
}

func (r *readers) startRun() {
	r.run = pluginRun{number: r.run.number + 1, wall: r.now().Truncate(time.Second), started: r.passed,
		read: r.passed + time.Duration(r.rng.IntN(9))*time.Second/2}
	r.run.sure = r.touched+2*time.Second < r.passed && (r.keep == nil && r.looked == 0 || r.looked > 0 && r.looked+2*time.Second < r.passed)
	r.pass(0)
}

func (r *readers) reader() nodestate.Reader {
	return nodestate.Reader{Pod: fmt.Sprint("pod-", r.run.number), Container: "dp", Started: r.run.wall.Unix()}
}

func (r *readers) report() PluginReport {
	return PluginReport{Pods: []string{"kube-system/dp"}, Readers: []nodestate.Reader{r.reader()}}
}

// Find implements DevicePlugin.
func (r *readers) Find(context.Context) (PluginReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report(), nil
}

// Restart implements DevicePlugin as pluginpods.DevicePlugin does.
func (r *readers) Restart(_ context.Context, want Wanted) (PluginReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var deleted []string
	for !want.HasRead(r.reader(), r.now()) {
		if !r.back && r.run.content == want.Hash && r.run.sure && r.touched < r.run.started {
			r.useless++
		}
		deleted = []string{"kube-system/dp"}
		r.pass(time.Duration(2+r.rng.IntN(3)) * time.Second)
		r.startRun()
	}
	report := r.report()
	report.Deleted = deleted
	return report, nil
}

func (r *readers) stat(string) nodestate.SeenConfig {
	return seenConfig(r.file.inode, r.file.changed, r.folder)
}

func (r *readers) startDaemon(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	log.SetLevel(logrus.PanicLevel)
	r.keep = New(Options{Plugin: r, Stat: r.stat, Wake: func() {}, Commit: func() { r.save(t) }, Log: log})
	var c nodestate.Checkpoint
	if r.disk != nil {
		if err := json.Unmarshal(r.disk, &c); err != nil {
			t.Fatal(err)
		}
	}
	r.keep.Resume(c)
}

func (r *readers) save(t *testing.T) {
	var c nodestate.Checkpoint
	r.keep.Record(&c)
	var err error
	if r.disk, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
}

// sync is one Sync of the daemon, and those after it that an answer asks for.
func (r *readers) sync(t *testing.T) {
	for r.keep != nil {
		r.mu.Lock()
		now := r.now()
		r.keep.wanted = Wanted{Path: "config", Hash: r.file.content}
		if r.looked == 0 {
			r.looked = r.passed
		}
		r.keep.step(t.Context(), now)
		r.save(t)
		c := r.keep.call
		r.mu.Unlock()
		if c == nil {
			return
		}
		<-c.done
	}
}

// event is one thing that happens.
func (r *readers) event(t *testing.T) {
	contents := []string{"A", "B", "C"}
	var what string
	switch n := r.rng.IntN(15); {
	case n < 4:
		how := r.rng.IntN(4)
		if what = r.put(contents[r.rng.IntN(3)], how); how == 3 {
			r.sync(t) // a running daemon looks at each change of the folder, some time before the next
		}
	case n < 5 && r.keep != nil && r.keep.inspected: // a mount leaves no trace while no daemon looks
		r.sync(t)
		what = r.put("", 4)
		r.sync(t)
	case n < 6:
		r.file.changed, r.touched, r.looked = r.now(), r.passed, 0
		what = "chmod, touch or ln"
	case n < 9:
		r.startRun()
		what = "plugin starts"
	case n < 10:
		r.keep, what = nil, "daemon killed"
	case n < 12 && r.keep == nil:
		r.startDaemon(t)
		what = "daemon starts"
	case n < 13 && r.rng.IntN(4) == 0:
		r.skew -= time.Duration(1+r.rng.IntN(3)) * time.Hour
		r.back, what = true, "clock set back"
	default:
		d := []time.Duration{time.Second, 4 * time.Second, 15 * time.Second, time.Minute}[r.rng.IntN(4)]
		r.pass(d)
		what = d.String()
	}
	r.story = append(r.story, what)
	if r.rng.IntN(3) > 0 {
		r.story = append(r.story, "Sync")
		r.sync(t)
	}
}

// TestWhoeverReadAnotherConfigIsRestarted: however people change the config, the device plugin restarts and daemons
// come and go, in the end it has read the config that is there. One that could be seen to have read it is left alone.
func TestWhoeverReadAnotherConfigIsRestarted(t *testing.T) {
	seed := *readersSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d stories, the first of which has -readers-seed=%d", *readersRuns, seed)
	for i := range uint64(*readersRuns) {
		r := &readers{rng: rand.New(rand.NewPCG(seed+i, 1)), inodes: 2}
		r.file, r.backup = diskFile{"A", 1, r.now()}, diskFile{"A", 2, r.now().Add(-time.Hour)}
		r.folder = r.now()
		r.pass(time.Minute)
		r.startRun()
		r.startDaemon(t)
		for range 3 + r.rng.IntN(25) {
			r.event(t)
		}
		if r.keep == nil {
			r.startDaemon(t)
		}
		for range 60 { // back-off and all
			r.sync(t)
			r.pass(10 * time.Second)
		}
		state, _ := r.keep.state()
		if r.run.content != r.file.content || r.keep.served != r.file.content || state != view.PluginServing || r.useless > 0 {
			t.Fatalf("-readers-stories=1 -readers-seed=%d: the plugin has read %q of %q, said to serve %q (%s), %d useless restarts\nafter %s",
				seed+i, r.run.content, r.file.content, r.keep.served, state, r.useless, strings.Join(r.story, "; "))
		}
	}
}
