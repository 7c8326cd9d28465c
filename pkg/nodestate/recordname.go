package nodestate

import (
	"fmt"
	"path/filepath"
	"strings"
)

// fileName is the name of an attachment's record. Container ids may have dashes
// (cnitool's do), and so may interface names. The interface is behind the last dash;
// if its name has a dash, it is behind a colon, which neither name can have.
func (id AttachmentID) fileName() string {
	between := "-"
	if strings.Contains(id.IfName, "-") {
		between = ":"
	}
	return id.ContainerID + between + id.IfName + ".json"
}

// idOf is the attachment by the name of its record; zero for any other name.
func idOf(name string) AttachmentID {
	base := strings.TrimSuffix(name, ".json")
	at := strings.IndexByte(base, ':')
	if at < 0 {
		at = strings.LastIndexByte(base, '-')
	}
	if at <= 0 || at == len(base)-1 {
		return AttachmentID{}
	}
	return AttachmentID{ContainerID: base[:at], IfName: base[at+1:]}
}

// names are the names that the record may have. The second, if there is one, is the
// one that earlier versions gave it, when a with b-c and a-b with c shared a file.
func (id AttachmentID) names() []string {
	old := id.String() + ".json"
	if name := id.fileName(); name != old {
		return []string{name, old}
	}
	return []string{old}
}

// paths are where the record may be, the place of a new one first.
func (d AttachmentDir) paths(id AttachmentID) (paths []string, err error) {
	for _, name := range id.names() {
		if id.ContainerID == "" || id.IfName == "" || strings.ContainsAny(id.String(), "/:\x00") || name[0] == '.' || len(name) > 250 {
			return nil, fmt.Errorf("record of %q: want a container id and an interface name that make a file name", id.String())
		}
		paths = append(paths, filepath.Join(string(d), name))
	}
	return paths, nil
}

// path is where a new record is.
func (d AttachmentDir) path(id AttachmentID) (string, error) {
	paths, err := d.paths(id)
	if err != nil {
		return "", err
	}
	return paths[0], nil
}

// old returns the second of the paths, and whether this attachment's record is there.
// The path may hold another attachment's record, whose lock is not ours to take.
func old(paths []string, id AttachmentID) (string, bool) {
	if len(paths) < 2 {
		return "", false
	}
	a, err := readRecord(paths[1])
	return paths[1], err == nil && a.AttachmentID == id
}
