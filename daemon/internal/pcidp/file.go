package pcidp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// DefaultPath is where the device plugin looks for its config.
const DefaultPath = "/etc/pcidp/config.json"

// SettleTime is how long an unparsable or vanished file must stay so until it is rebuilt: editors truncate, or move the
// old file away, and then write in pieces.
const SettleTime = 2 * time.Second

// retryEdited is the wait after somebody wrote the file while we did.
const retryEdited = 200 * time.Millisecond

// restlessAfter is how long the file may neither rest nor be replaced before a Problem says so.
const restlessAfter = 10 * time.Second

// File is the config on disk. Its methods must not be called concurrently.
type File struct {
	Path string           // the config file; its folder is made when it is missing
	Now  func() time.Time // Now gives the time, for settling and for the names of copies
	// Written is called with each content that was put in the file's place. Nil: nobody looks.
	Written func(content []byte)

	// unsettled is the hash of a content that has waited for SettleTime since the time since; "" for none.
	unsettled string
	since     time.Time
	restless  time.Time               // the first of the calls that could not finish because the file was being written; zero after success
	prefixes  []string                // those for which the file was last rendered; nil before
	read      map[string]asideContent // read has the copies that were read
}

// Request is the wanted config.
type Request struct {
	Entries []Entry
	// Owned are the resources whose entries in the file are ours: the last Result.Owned, and those given to SaveOwned
	// since.
	Owned []device.ResourceName
	Node
	// Optional leaves a missing file missing, unless an entry of people's or of ours was in it.
	Optional bool
	LastGood []byte // Result.Content of the last Apply that had one; empty when there never was one
	// SaveOwned gets, before each change of the file, every resource that will be ours or was. It must save them
	// durably: after a crash they tell our entries from people's. An error stops the change.
	SaveOwned func(owned []device.ResourceName) error
}

// Result tells the outcome of Apply.
type Result struct {
	Changed bool // Changed says that the file was written
	// Content is the canonical form of the file now, and Hash its SHA-256, both without regard to white space. If they
	// are empty, the caller keeps its values.
	Content []byte
	Hash    string
	Owned   []device.ResourceName // the resources whose entries in the file are ours
	// Offered are the devices that our entries offer, and Foreign the names of the others; see Rendering.
	Offered  map[device.ResourceName][]device.PCIAddress
	Foreign  []device.ResourceName
	Problems []nodestate.Problem
	// RetryAfter asks for another call after this time: nothing changed, the Result before still holds, and only Owned
	// is set, and a Problem if that goes on for long. 0 asks for none.
	RetryAfter time.Duration
}

// Apply makes the file hold the entries. A file that means the right thing keeps people's formatting.
//
// An unparsable file is left alone for SettleTime, then copied and rebuilt from the last good content's foreign entries
// and ours. While somebody keeps writing it, perhaps in a slow edit, it is left alone, with a Problem. An error means
// that the file is unreadable or unwritable. It is then unchanged, unless only the folder could not be synced; so
// decide by Hash, not by Changed.
//
// An edit between the last look at the file and the rename, two system calls, can be lost.
func (f *File) Apply(r Request) (Result, error) {
	current, err := readConfig(f.Path)
	var link *symlinkError
	if errors.As(err, &link) {
		f.unsettled, f.restless = "", time.Time{}
		return Result{Owned: r.Owned, Problems: []nodestate.Problem{link.problem()}}, nil
	}
	if err != nil {
		return Result{}, err
	}
	if current == nil && r.nothing() {
		f.unsettled, f.restless = "", time.Time{}
		return Result{}, nil
	}
	r.newPrefixes = f.prefixes != nil && !slices.Equal(f.prefixes, r.prefixes())
	rendering, err := f.render(current, r)
	var wait *unsettledError
	if errors.As(err, &wait) {
		return f.later(r, wait.after), nil
	}
	if err != nil {
		return Result{}, err
	}
	changed := !sameValue(current, rendering.Content)
	var copies []string
	if changed {
		if err := saveOwned(r, rendering.Owned); err != nil {
			return Result{}, err
		}
		copies, err = f.replace(current, rendering)
		if errors.Is(err, errEdited) {
			return f.later(r, retryEdited), nil
		}
		if err != nil {
			return Result{}, err
		}
		if f.Written != nil {
			f.Written(rendering.Content)
		}
	}
	asides, err := f.asides()
	if err != nil {
		return Result{}, err
	}
	f.prune(asides, copies)
	f.restless, f.prefixes, r.newPrefixes = time.Time{}, r.prefixes(), false
	return Result{
		Changed:  changed,
		Content:  rendering.Content,
		Hash:     hash(rendering.Content),
		Owned:    rendering.Owned,
		Offered:  rendering.Offered,
		Foreign:  rendering.Foreign,
		Problems: bounded(append(rendering.Problems, f.asideProblems(asides, r, rendering)...)),
	}, nil
}

func (f *File) later(r Request, after time.Duration) Result {
	result := Result{Owned: r.Owned, RetryAfter: after}
	now := f.Now()
	if f.restless.IsZero() || now.Before(f.restless) {
		f.restless = now
	}
	if now.Sub(f.restless) >= restlessAfter {
		result.Problems = []nodestate.Problem{{Reason: reason.ConfigUnsettled, Device: f.Path, Message: fmt.Sprintf(
			"%s has changed again and again for more than %v, so the daemon leaves it alone; it may list outdated devices, or be unreadable; find the program "+
				"that writes it, and have it written once, as a whole",
			f.Path, restlessAfter)}}
	}
	return result
}

type unsettledError struct {
	after time.Duration
}

func (e *unsettledError) Error() string {
	return fmt.Sprintf("device plugin config is being edited; look again in %v", e.after)
}

// render renders the current content, or, if that is settled garbage, the last good one.
func (f *File) render(current []byte, r Request) (Rendering, error) {
	rendering, err := Render(current, r.Entries, r.Owned, r.Node)
	var syntax *SyntaxError
	if corrupt := errors.As(err, &syntax); !corrupt && (err != nil || current != nil || len(r.LastGood) == 0) {
		f.unsettled = ""
		if rendering.SetAside() {
			rendering.losing = [][]byte{current}
		}
		return rendering, err
	}
	if err := f.settle(current); err != nil {
		return Rendering{}, err
	}
	if syntax == nil {
		return rendering, nil // deleted for good
	}
	return f.rebuild(current, r, syntax)
}

// settle returns *unsettledError until the content has stayed for SettleTime.
func (f *File) settle(current []byte) error {
	key := "missing"
	if current != nil {
		key = hash(current)
	}
	now := f.Now()
	if f.unsettled != key || now.Before(f.since) {
		f.unsettled, f.since = key, now
	}
	if age := now.Sub(f.since); age < SettleTime {
		return &unsettledError{SettleTime - age}
	}
	f.unsettled = "" // the same content may come back, in another edit
	return nil
}

func (f *File) rebuild(current []byte, r Request, cause *SyntaxError) (Rendering, error) {
	rendering, err := Render(r.LastGood, r.Entries, r.Owned, r.Node)
	source := "the last good content"
	var syntax *SyntaxError
	if errors.As(err, &syntax) || len(r.LastGood) == 0 {
		rendering, err = Render(nil, r.Entries, r.Owned, r.Node)
		source = "our entries alone, as no good content is known"
	}
	if err != nil {
		return Rendering{}, err
	}
	if rendering.SetAside() { // by rules, or a prefix, that were others then
		rendering.losing = append(rendering.losing, r.LastGood)
	}
	if len(bytes.TrimSpace(current)) > 0 {
		rendering.losing = append(rendering.losing, current)
	}
	rendering.Problems = append([]nodestate.Problem{{
		Reason:  reason.ConfigCorrupt,
		Device:  f.Path,
		Message: fmt.Sprintf("%v; the file was rebuilt from %s", cause, source),
	}}, rendering.Problems...)
	return rendering, nil
}

func saveOwned(r Request, owned []device.ResourceName) error {
	all := slices.Clone(r.Owned)
	for _, name := range owned {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if r.SaveOwned == nil {
		return nil
	}
	slices.Sort(all)
	if err := r.SaveOwned(all); err != nil {
		return fmt.Errorf("claim entries of device plugin config: %w", err)
	}
	return nil
}

func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
