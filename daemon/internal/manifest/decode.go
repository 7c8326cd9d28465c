package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// decoded is the content of one file.
type decoded struct {
	objects  []v1alpha1.NodeENI
	problems []nodestate.Problem
	unread   []string // the names of the NodeENIs that could not be understood
	complete bool     // every other document was understood
}

// decode reads one manifest. Each of its problems names path.
func decode(path string, data []byte) decoded {
	d := decoder{path: path, out: decoded{complete: true}}
	docs, err := split(path, data)
	if err != nil {
		d.fail(err)
	}
	if len(docs) == 0 && err == nil {
		d.fail(errors.New("declares nothing; an editor may be about to write it"))
	}
	for i, doc := range docs {
		d.document(i+1, doc)
	}
	return d.out
}

type decoder struct {
	path string
	out  decoded
}

func (d *decoder) fail(err error) {
	d.out.complete = false
	d.out.problems = append(d.out.problems, unreadable(d.path, err))
}

// document is one YAML document or JSON value.
type document struct {
	json     []byte
	err      error // it has no JSON form
	doubtful error // the error of a strict reader, or nil
}

func (d *decoder) document(n int, doc document) {
	where := fmt.Sprintf("document %d", n)
	if doc.err != nil {
		d.fail(fmt.Errorf("read %s: %w", where, doc.err))
		return
	}
	if doc.doubtful != nil {
		d.doubt("", where, doc.doubtful)
	}
	d.object(where, doc.json, true)
}

// object decodes one object of any kind; a list may hold others but no lists.
func (d *decoder) object(where string, data []byte, mayList bool) {
	var meta metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &meta); err != nil {
		d.fail(fmt.Errorf("read %s: %w", where, err))
		return
	}
	group, version, _ := strings.Cut(meta.APIVersion, "/")
	ours := group == v1alpha1.GroupName
	switch {
	case meta.Kind == "" || meta.APIVersion == "":
		d.fail(fmt.Errorf("read %s: apiVersion %q, kind %q: both are needed; want %s and %s",
			where, meta.APIVersion, meta.Kind, v1alpha1.APIVersion, v1alpha1.Kind))
	case mayList && (meta.Kind == "List" && meta.APIVersion == "v1" || ours && meta.Kind == v1alpha1.ListKind):
		d.list(where, data)
	case ours && version == v1alpha1.Version && meta.Kind == v1alpha1.Kind:
		d.nodeENI(where, data)
	case ours && maybeNodeENI(meta.Kind):
		d.notUnderstood(data, fmt.Errorf("read %s: apiVersion %q, kind %q: not known here; want %s and %s",
			where, meta.APIVersion, meta.Kind, v1alpha1.APIVersion, v1alpha1.Kind))
	default:
		d.out.problems = append(d.out.problems, nodestate.Problem{
			Reason: reason.OtherKind, Device: d.path,
			Message: fmt.Sprintf("file %q: %s has apiVersion %q and kind %q, which is left alone; only %s is read here, move it elsewhere",
				d.path, where, meta.APIVersion, meta.Kind, v1alpha1.Kind),
		})
	}
}

// maybeNodeENI accepts our kinds of unknown versions, and beginnings of their names: the file may be half written.
func maybeNodeENI(kind string) bool {
	const whole = v1alpha1.ListKind // begins with v1alpha1.Kind
	return len(kind) <= len(whole) && kind == whole[:len(kind)]
}

func (d *decoder) list(where string, data []byte) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &list); err != nil {
		d.fail(fmt.Errorf("read %s: %w", where, err))
		return
	}
	if list.Items == nil {
		d.fail(fmt.Errorf("read %s: items is missing; an empty list is written []", where))
		return
	}
	for i, item := range list.Items {
		d.object(fmt.Sprintf("%s, items[%d]", where, i), item, false)
	}
}

func (d *decoder) nodeENI(where string, data []byte) {
	var o v1alpha1.NodeENI
	doubts, err := kjson.UnmarshalStrict(data, &o)
	if err != nil {
		d.notUnderstood(data, fmt.Errorf("read %s: %w", where, err))
		return
	}
	if faults := validation.IsDNS1123Subdomain(o.Name); len(faults) > 0 {
		d.fail(fmt.Errorf("read %s: metadata.name %q: %s", where, o.Name, faults[0]))
		return
	}
	for _, doubt := range doubts {
		d.doubt(o.Name, where, doubt)
	}
	d.out.objects = append(d.out.objects, o.Defaulted())
}

// notUnderstood reports a NodeENI of which at most the name can be read. Without a name it may be any.
func (d *decoder) notUnderstood(data []byte, err error) {
	var o struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if kjson.UnmarshalCaseSensitivePreserveInts(data, &o) != nil || o.Kind != v1alpha1.Kind || len(validation.IsDNS1123Subdomain(o.Metadata.Name)) > 0 {
		d.fail(err)
		return
	}
	d.out.unread = append(d.out.unread, o.Metadata.Name)
	d.out.problems = append(d.out.problems, nodestate.Problem{
		Reason: reason.NodeENIUnreadable, NodeENI: o.Metadata.Name, Device: d.path,
		Message: fmt.Sprintf("file %q: %v; the devices of this NodeENI stay as they are until you correct it", d.path, err),
	})
}

// doubt reports the fields that the API server would warn of and drop.
func (d *decoder) doubt(nodeENI, where string, err error) {
	d.out.problems = append(d.out.problems, nodestate.Problem{
		Reason: reason.UnknownField, NodeENI: nodeENI, Device: d.path,
		Message: fmt.Sprintf("file %q: %s: %v; the API server would drop it, correct or remove it", d.path, where, err),
	})
}

// split returns the non-empty documents of a file. The error is about what follows them.
func split(path string, data []byte) ([]document, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	isJSON := filepath.Ext(path) == ".json"
	if isJSON || bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		// YAML does not accept every JSON (tabs, for one).
		docs, err := splitJSON(data)
		if isJSON || err == nil {
			return docs, err
		}
	}
	var docs []document
	for _, text := range splitYAML(data) {
		doc := document{}
		doc.json, doc.err = yaml.YAMLToJSON(text)
		if doc.err == nil && string(doc.json) == "null" {
			continue // nothing but comments
		}
		if doc.err == nil {
			_, doc.doubtful = yaml.YAMLToJSONStrict(text)
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func splitJSON(data []byte) ([]document, error) {
	var docs []document
	for dec := json.NewDecoder(bytes.NewReader(data)); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return docs, fmt.Errorf("read document %d: %w", len(docs)+1, err)
		}
		docs = append(docs, document{json: raw})
	}
}

// splitYAML cuts at the markers of YAML 1.2, section 9.1: "---" and "..." at a line's start, before white space or
// nothing.
func splitYAML(data []byte) [][]byte {
	var docs [][]byte
	start, pos := 0, 0
	for line := range bytes.Lines(data) {
		if isMarker(line) {
			docs = append(docs, data[start:pos])
			start = pos + len("---") // a document may begin on the marker's line
		}
		pos += len(line)
	}
	return append(docs, data[start:])
}

func isMarker(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	if !ok {
		rest, ok = bytes.CutPrefix(line, []byte("..."))
	}
	return ok && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])))
}
