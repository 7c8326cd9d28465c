// Package orphan releases attachments whose pod has gone without a DEL: after a restart of the node, or when a container runtime died with
// its pods. It runs the plugin's own DEL from the attachment record, as the runtime should have.
//
// An attachment is an orphan if its record is of an earlier boot, or its network namespace has been gone for a grace period. Gone is defined by
// link.Probe, and counts only if the namespace's folder is known to be the host's, with later mounts (see watch.go). In every other case
// the answer is unknown, and nothing is done.
package orphan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// DefaultGrace is how long a netns is gone before its attachment is an orphan: the runtime's own DEL comes within seconds.
	DefaultGrace = 60 * time.Second
	// lookEvery is the least time between two looks at one record's netns.
	lookEvery  = 10 * time.Second
	delTimeout = 60 * time.Second
	// retryFirst and retryLatest bound the waits after a failed DEL; they double.
	retryFirst  = time.Minute
	retryLatest = 30 * time.Minute
	// atOnce bounds the simultaneous DELs.
	atOnce = 2
)

// Options configure a Sweeper. All are needed unless they say otherwise.
type Options struct {
	// Attachments has the records, of the daemon and the plugin.
	Attachments nodestate.AttachmentDir
	BootID      string
	// BinDir is the folder of the multi-eni binary. The plugin finds other binaries there, and in the record's folders.
	BinDir string
	// Grace is how long a netns must be gone; 0 is DefaultGrace.
	Grace time.Duration
	// MountInfo is proc(5)'s mountinfo of this process; "" is /proc/self/mountinfo.
	MountInfo string

	Now func() time.Time
	Log logrus.FieldLogger
	// Wake is called when a DEL has ended, from another goroutine.
	Wake func()
}

// Sweeper finds and releases orphans. It forgets them at the daemon's end, and the grace begins anew.
type Sweeper struct {
	Options
	watch   *watch
	timeout time.Duration // of one DEL
	running sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	fates map[nodestate.AttachmentID]*fate
	busy  int // DELs that run
}

// fate is the state of one record.
type fate struct {
	record nodestate.Attachment
	// look is when to look at its netns again.
	look time.Time
	// unwatched is its netns' folder if that cannot be watched, else "".
	unwatched string
	// gone is since when the netns is seen gone; zero for not gone.
	gone time.Time
	// orphan: it is past its grace, and the log says so.
	orphan bool
	// running: its DEL is under way.
	running bool
	// problem is why the last DEL failed, or nil. The next one is due at next, wait after it.
	problem *nodestate.Problem
	next    time.Time
	wait    backoff.Backoff
}

// New returns a Sweeper that has seen nothing yet.
func New(o Options) *Sweeper {
	o.Grace = cmp.Or(o.Grace, DefaultGrace)
	o.MountInfo = cmp.Or(o.MountInfo, ownMountInfo)
	return &Sweeper{Options: o, watch: newWatch(o.MountInfo), timeout: delTimeout, fates: map[nodestate.AttachmentID]*fate{}}
}

// Sweep takes all readable records, and begins the DELs of due orphans in the background. It returns the Problems, and when to call it again;
// 0 if time alone makes no difference. However often it is called, it looks at a new record at once, and then at most every 10 s.
//
// DELs end with ctx at the latest: pass the daemon's context. Calls must not overlap.
func (s *Sweeper) Sweep(ctx context.Context, records []nodestate.Attachment) (found []nodestate.Problem, again time.Duration) {
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(records)
	s.watch.forget()
	for _, f := range s.sorted() {
		if f.running {
			continue
		}
		looked := !now.Before(f.look) || f.look.Sub(now) > lookEvery // the latter: the clock was set back
		if looked {
			s.look(ctx, now, f)
		}
		if f.gone.IsZero() {
			if !looked { // the event of this call may have been the end of that netns
				again = sooner(again, f.look.Sub(now))
			}
			continue
		}
		if f.next.Sub(now) > retryLatest { // the clock was set back
			f.next = now
		}
		if due := f.due(s.Grace); now.Before(due) {
			again = sooner(again, due.Sub(now))
		} else if s.busy < atOnce && s.confirmed(ctx, now, f) {
			s.start(ctx, f)
		}
	}
	return s.problems(), again
}

// Wait returns when all DELs have ended, soon after the end of Sweep's context.
func (s *Sweeper) Wait() { s.running.Wait() }

// due is when to run the next DEL. The caller has seen the netns gone.
func (f *fate) due(grace time.Duration) time.Time {
	if due := f.gone.Add(grace); due.After(f.next) {
		return due
	}
	return f.next
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

func (s *Sweeper) keep(records []nodestate.Attachment) {
	present := make(map[nodestate.AttachmentID]bool, len(records))
	for _, a := range records {
		present[a.AttachmentID] = true
		f, known := s.fates[a.AttachmentID]
		if !known || !sameRecord(f.record, a) && !f.running {
			f = &fate{}
			s.fates[a.AttachmentID] = f
		}
		if !f.running {
			f.record = a
		}
	}
	for id, f := range s.fates {
		if present[id] || f.running {
			continue
		}
		if f.orphan {
			s.entry(f.record).Info("orphaned attachment is gone, released by others")
		}
		delete(s.fates, id)
	}
}

// sameRecord: the two records are of one ADD.
func sameRecord(a, b nodestate.Attachment) bool {
	return a.CreatedAt.Equal(b.CreatedAt) && a.BootID == b.BootID && a.Netns == b.Netns
}

// sorted returns the fates in the order in which their netns went, so that a failing DEL does not delay other orphans.
func (s *Sweeper) sorted() []*fate {
	all := make([]*fate, 0, len(s.fates))
	for _, f := range s.fates {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *fate) int {
		return cmp.Or(a.next.Compare(b.next), a.gone.Compare(b.gone), strings.Compare(a.record.AttachmentID.String(), b.record.AttachmentID.String()))
	})
	return all
}

func (s *Sweeper) look(ctx context.Context, now time.Time, f *fate) {
	f.look = now.Add(lookEvery)
	f.unwatched = ""
	switch {
	case !s.isGone(f):
		if f.orphan {
			s.entry(f.record).Info("attachment is no orphan, its network namespace is there again or cannot be told")
		}
		*f = fate{record: f.record, look: f.look, unwatched: f.unwatched}
	case s.writing(ctx, f.record):
		f.gone = time.Time{} // the grace begins when it has ended
	case f.gone.IsZero() || f.gone.After(now):
		f.gone = now
	}
}

// confirmed looks once more, right before a DEL.
func (s *Sweeper) confirmed(ctx context.Context, now time.Time, f *fate) bool {
	if !f.look.Equal(now.Add(lookEvery)) {
		s.look(ctx, now, f)
	}
	return !f.gone.IsZero()
}

// isGone: the record's netns certainly is no more. To look at a path in /proc takes no mount, but the PID namespace that recorded it.
func (s *Sweeper) isGone(f *fate) bool {
	if f.record.BootID != s.BootID {
		return true
	}
	path := f.record.Netns.Path
	if folder := filepath.Dir(path); path != "" && !strings.HasPrefix(path, "/proc/") && !s.watch.shows(folder) {
		f.unwatched = folder
		return false
	}
	return link.Probe(f.record.Netns) == link.Gone
}

func (s *Sweeper) start(ctx context.Context, f *fate) {
	if !f.orphan {
		f.orphan = true
		s.entry(f.record).Warn("orphaned attachment found: its pod is gone and nobody has released it; running the plugin's DEL")
	}
	f.running = true
	s.busy++
	a := f.record
	s.running.Go(func() {
		err := s.release(ctx, a)
		s.ended(ctx, f, err)
		s.Wake()
	})
}

func (s *Sweeper) ended(ctx context.Context, f *fate, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.running = false
	s.busy--
	switch {
	case err == nil:
		s.entry(f.record).Info("orphaned attachment released")
		delete(s.fates, f.record.AttachmentID)
	case ctx.Err() != nil: // told to stop; the record stays for the next daemon
	case errors.Is(err, nodestate.ErrBusy): // somebody else is at it
		f.next = s.Now().Add(lookEvery)
	default:
		f.wait.First, f.wait.Cap = retryFirst, retryLatest
		f.next = s.Now().Add(f.wait.Failed())
		problem := problemOf(f.record, err)
		if f.problem == nil || *f.problem != problem {
			s.entry(f.record).WithError(err).Warn("orphaned attachment cannot be released, trying again")
		}
		f.problem = &problem
	}
}

func problemOf(a nodestate.Attachment, err error) nodestate.Problem {
	var plugin *pluginError
	if errors.As(err, &plugin) {
		return nodestate.Problem{Reason: reason.OrphanPluginUnusable, Device: plugin.path, Message: fmt.Sprintf(
			"attachments whose pod is gone cannot be released: %v; install multi-eni there, or correct --cni-bin-dir", plugin)}
	}
	what := "the plugin's DEL fails, see the daemon's log"
	if errors.Is(err, errStillThere) {
		what = err.Error()
	}
	return nodestate.Problem{Reason: reason.OrphanNotReleased, NodeENI: a.Device.NodeENI, Device: a.Device.PCIAddress.String(), Message: fmt.Sprintf(
		"attachment %s%s, whose pod is gone, cannot be released: %s; the device or its address stays held until that works", a.AttachmentID, ofPod(a), what)}
}

func ofPod(a nodestate.Attachment) string {
	if a.Pod == "" {
		return ""
	}
	return " of pod " + a.Pod
}

// problems lists the present problems, in a stable order and without repetition.
func (s *Sweeper) problems() []nodestate.Problem {
	var found []nodestate.Problem
	folders := map[string]bool{}
	for _, f := range s.fates {
		if f.problem != nil {
			found = append(found, *f.problem)
		}
		if f.unwatched != "" {
			folders[f.unwatched] = true
		}
	}
	if len(folders) > 0 {
		found = append(found, unwatched(folders))
	}
	slices.SortFunc(found, func(a, b nodestate.Problem) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), strings.Compare(a.Device, b.Device), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(found)
}

func (s *Sweeper) entry(a nodestate.Attachment) *logrus.Entry {
	fields := logrus.Fields{"attachment": a.AttachmentID.String(), "device": a.Device.PCIAddress, "netns": a.Netns.Path}
	if a.Pod != "" {
		fields["pod"] = a.Pod
	}
	if a.BootID != s.BootID {
		fields["earlierBoot"] = true
	}
	return s.Log.WithFields(fields)
}
