package pcidp

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// asideMark comes between the config's name and the time of a copy.
const asideMark = ".corrupt-"

// asideTime is the rest of a copy's name: the time, and a number for later copies of the same second. Only such files
// are ours to delete.
var asideTime = regexp.MustCompile(`^([0-9]{8}T[0-9]{6}Z)(?:-([0-9]{1,3}))?$`)

const (
	maxAsides         = 10  // how many copies are kept
	maxAsidePerSecond = 100 // maxAsidePerSecond bounds the search for a free name
	// maxLeftOutProblems bounds the Problems about entries in copies, and maxProblems all those about the config.
	maxLeftOutProblems = 10
	maxProblems        = 50
)

// aside is a copy of an earlier content.
type aside struct {
	path string
	// at and number are parts of its name.
	at     string
	number int
}

func (f *File) asides() ([]aside, error) {
	dir := filepath.Dir(f.Path)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list copies of device plugin config: %w", err)
	}
	var all []aside
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(f.Path)+asideMark)
		parts := asideTime.FindStringSubmatch(rest)
		if !ok || parts == nil || !e.Type().IsRegular() {
			continue
		}
		number, _ := strconv.Atoi(parts[2]) // none: the first
		all = append(all, aside{filepath.Join(dir, e.Name()), parts[1], number})
	}
	slices.SortFunc(all, func(a, b aside) int { return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(b.number, a.number)) })
	return all, nil
}

// keepAside copies content beside the file, unless an earlier copy is equal. It returns the copy's path and whether it
// is new.
func (f *File) keepAside(content []byte) (path string, made bool, err error) {
	asides, err := f.asides()
	if err != nil {
		return "", false, err
	}
	for _, a := range asides {
		if text, err := readConfig(a.path); err == nil && bytes.Equal(text, content) {
			return a.path, false, nil
		}
	}
	path, err = f.writeAside(content)
	return path, err == nil, err
}

func (f *File) writeAside(content []byte) (string, error) {
	base := f.Path + asideMark + f.Now().UTC().Format("20060102T150405Z")
	path := base
	err := atomicfile.WriteNew(path, content, configMode, atomicfile.Durable)
	for i := 2; errors.Is(err, fs.ErrExist) && i <= maxAsidePerSecond; i++ {
		path = fmt.Sprintf("%s-%d", base, i)
		err = atomicfile.WriteNew(path, content, configMode, atomicfile.Durable)
	}
	if err != nil {
		return "", fmt.Errorf("keep a copy: %w", err)
	}
	return path, nil
}

// prune deletes all but maxAsides copies: first equals of newer ones, then the oldest. The copies of this call stay
// whatever the clock says. The next call retries failed deletions.
func (f *File) prune(asides []aside, now []string) {
	if len(asides) <= maxAsides {
		return
	}
	var kept [][]byte
	free := maxAsides
	for _, a := range asides {
		if slices.Contains(now, a.path) {
			free--
		}
	}
	for _, a := range asides {
		if slices.Contains(now, a.path) {
			continue
		}
		if len(kept) < free {
			text, err := readConfig(a.path)
			if err != nil || !slices.ContainsFunc(kept, func(k []byte) bool { return bytes.Equal(k, text) }) {
				kept = append(kept, text)
				continue
			}
		}
		os.Remove(a.path) //nolint:errcheck,gosec // see above
	}
}

// asideContent is a copy's text, and how its file looked then.
type asideContent struct {
	size     int64
	modified time.Time
	text     []byte
}

// asideContent returns a copy's content, nil if it cannot be read. It reads a copy once.
func (f *File) asideContent(path string) []byte {
	info, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	had, ok := f.read[path]
	if ok && had.size == info.Size() && had.modified.Equal(info.ModTime()) {
		return had.text
	}
	text, err := readConfig(path)
	if err != nil {
		return nil
	}
	if f.read == nil {
		f.read = map[string]asideContent{}
	}
	f.read[path] = asideContent{info.Size(), info.ModTime(), text}
	return text
}

// asideProblems name the entries that copies have and the config lacks, with the reason. After a restart only the
// copies tell it.
func (f *File) asideProblems(asides []aside, r Request, now Rendering) []nodestate.Problem {
	maps.DeleteFunc(f.read, func(path string, _ asideContent) bool {
		return !slices.ContainsFunc(asides, func(a aside) bool { return a.path == path })
	})
	var entries []nodestate.Problem
	var open []string
	cause := ""
	told, more := map[LeftOut]bool{}, 0
	for _, a := range asides[:min(len(asides), maxAsides)] {
		missing, why := f.missing(a.path, r, now)
		if missing == nil && why == "" {
			continue
		}
		if open = append(open, a.path); len(open) == 1 {
			cause = why
		}
		for _, l := range missing {
			switch {
			case told[l]:
			case len(told) < maxLeftOutProblems:
				entries = append(entries, leftOutProblem(l, a.path))
			default:
				more++
			}
			told[l] = true
		}
	}
	if len(open) == 0 {
		return entries
	}
	message := open[0] + " has content of the device plugin config that the config lacks" + cause
	if n := len(open) + max(0, len(asides)-maxAsides) - 1; n > 0 {
		message += fmt.Sprintf("; so have %d copies in all", n)
	}
	if more > 0 {
		message += fmt.Sprintf("; %d more entries were left out", more)
	}
	return append(entries, nodestate.Problem{Reason: reason.ConfigSetAside, Device: open[0], Message: message + "; put back the parts you need and " +
		"delete the copy"})
}

func leftOutProblem(l LeftOut, path string) nodestate.Problem {
	return nodestate.Problem{Reason: l.Reason, Device: path, Message: fmt.Sprintf(
		"entry %s of the device plugin config was taken out, because it %s; %s, or delete %s, which has the file as it "+
			"was", clip(l.Entry), clip(l.Cause), l.Remedy, path)}
}

// missing returns the copy's entries that the config lacks because the plugin ends on them, or else, in otherwise,
// other missing entries. An entry is back when the config has its name, unless the copy has that name twice.
func (f *File) missing(path string, r Request, now Rendering) (entries []LeftOut, otherwise string) {
	content := f.asideContent(path)
	if content == nil {
		return nil, ", and cannot be read"
	}
	was, err := Render(content, r.Entries, r.Owned, r.Node)
	if err != nil {
		return nil, ": " + clip(err.Error())
	}
	for _, l := range was.LeftOut {
		if !now.kept[l.Entry] || was.kept[l.Entry] {
			entries = append(entries, l)
		}
	}
	if len(was.LeftOut) > 0 {
		return entries, ""
	}
	var lacking []string
	for _, name := range slices.Sorted(maps.Keys(was.kept)) {
		if !now.kept[name] {
			lacking = append(lacking, name)
		}
	}
	if lacking == nil {
		return nil, ""
	}
	return nil, ": entries " + clip(strings.Join(lacking, ", "))
}

func clip(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// bounded keeps maxProblems of the Problems, and counts the others in one.
func bounded(problems []nodestate.Problem) []nodestate.Problem {
	if len(problems) <= maxProblems {
		return problems
	}
	last := problems[len(problems)-1]
	rest := problems[maxProblems-2]
	rest.NodeENI, rest.Device = "", ""
	rest.Message = fmt.Sprintf("%d more problems of the device plugin config are not listed; correct the ones above first", len(problems)-maxProblems+1)
	return append(slices.Clone(problems[:maxProblems-2]), rest, last)
}
