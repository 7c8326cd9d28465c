package nodeeni

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// item is a NodeENI, or the own ENINodeState, trimmed for this node. Its metadata has only a reflector's fields: name, resource version, and
// a bookmark's annotations.
type item struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	// trimmed is JSON: metadata (name, uid, generation, deletionTimestamp, our annotation), spec, and this node's attachments.
	// Equal text is an equal object.
	trimmed []byte
}

func (i *item) DeepCopyObject() runtime.Object {
	out := &item{TypeMeta: i.TypeMeta, trimmed: bytes.Clone(i.trimmed)}
	i.DeepCopyInto(&out.ObjectMeta)
	return out
}

type trimmer struct {
	node string
	// state: the objects are ENINodeStates, whose status is left out: it is the daemon's own.
	state bool
}

func (t trimmer) kinds() (resource, kind, list string) {
	if t.state {
		return v1alpha1.NodeStateResource, v1alpha1.NodeStateKind, v1alpha1.NodeStateListKind
	}
	return "nodeenis", v1alpha1.Kind, v1alpha1.ListKind
}

// object consumes one NodeENI, whose kind must say so.
func (t trimmer) object(a *reader) (*item, error) {
	var out item
	var spec, status []byte
	meta := []byte("{}")
	err := a.object(func(key []byte) (err error) {
		switch string(key) {
		case `"apiVersion"`:
			out.APIVersion, err = a.text()
		case `"kind"`:
			out.Kind, err = a.text()
		case `"metadata"`:
			meta, err = metadata(a, &out.ObjectMeta)
		case `"spec"`:
			spec, err = a.value()
		case `"status"`:
			if t.state {
				return a.SkipValue()
			}
			status, err = t.status(a)
		default:
			err = a.SkipValue()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var whole members
	whole.add([]byte(`"metadata"`), meta)
	if spec != nil {
		whole.add([]byte(`"spec"`), spec)
	}
	if status != nil {
		whole.add([]byte(`"status"`), status)
	}
	out.trimmed = whole.object()
	return &out, nil
}

// metadata consumes metadata and returns the kept part, without the resource version: other nodes' attachments change that.
func metadata(a *reader, out *metav1.ObjectMeta) ([]byte, error) {
	if a.PeekKind() != '{' {
		return a.value()
	}
	var kept members
	err := a.object(func(key []byte) (err error) {
		switch string(key) {
		case `"resourceVersion"`:
			out.ResourceVersion, err = a.text()
		case `"name"`:
			out.Name, err = a.text()
			kept.add([]byte(`"name"`), quote(out.Name))
		case `"annotations"`:
			err = annotations(a, out, &kept)
		case `"uid"`, `"generation"`, `"deletionTimestamp"`:
			err = kept.take(key, a)
		default:
			err = a.SkipValue()
		}
		return err
	})
	return kept.object(), err
}

// annotations consumes the annotations, and keeps two.
func annotations(a *reader, out *metav1.ObjectMeta, kept *members) error {
	if a.PeekKind() != '{' {
		return a.SkipValue()
	}
	var ours members
	err := a.object(func(key []byte) (err error) {
		switch string(key) {
		case `"` + metav1.InitialEventsAnnotationKey + `"`:
			var v string
			if v, err = a.text(); err == nil {
				out.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: v}
			}
		case `"` + v1alpha1.AnnotationAllowedNamespaces + `"`:
			err = ours.take(key, a)
		default:
			err = a.SkipValue()
		}
		return err
	})
	if ours != nil {
		kept.add([]byte(`"annotations"`), ours.object())
	}
	return err
}

// status consumes a status and returns this node's part. A value of another shape stays as it is, for decoding to refuse.
func (t trimmer) status(a *reader) ([]byte, error) {
	if a.PeekKind() != '{' {
		return a.value()
	}
	var kept members
	err := a.object(func(key []byte) error {
		if string(key) != `"attachments"` {
			return a.SkipValue()
		}
		value, err := t.attachments(a)
		kept.add([]byte(`"attachments"`), value)
		return err
	})
	return kept.object(), err
}

func (t trimmer) attachments(a *reader) ([]byte, error) {
	if a.PeekKind() != '[' {
		return a.value()
	}
	out, name := []byte{'['}, quote(t.node)
	err := a.list('[', func() error {
		entry, err := a.ReadValue()
		if err != nil || foreign(entry, name) {
			return err
		}
		own, err := t.own(entry)
		if err != nil || own == nil {
			return err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, own...)
		return nil
	})
	return append(out, ']'), err
}

// foreign: the entry surely belongs to another node than the quoted name's; own decides about the rest. Nearly all entries are foreign,
// and reading their members would take most of the time.
func foreign(entry, name []byte) bool {
	return entry[0] == '{' && bytes.Count(entry, []byte(`"nodeID"`)) == 1 && bytes.Contains(entry, []byte(`"nodeID":"`)) &&
		!bytes.Contains(entry, name) && bytes.IndexByte(entry, '\\') < 0
}

// own returns this node's entry without its time, which changes without news; nil for another node's.
func (t trimmer) own(entry []byte) ([]byte, error) {
	if entry[0] != '{' {
		return entry, nil
	}
	a, ours := newReader(bytes.NewReader(entry), 0), false
	var kept members
	err := a.object(func(key []byte) error {
		switch string(key) {
		case `"lastUpdated"`:
			return a.SkipValue()
		case `"nodeID"`:
			value, err := a.value()
			node, unread := jsontext.AppendUnquote(nil, value)
			ours = unread != nil || string(node) == t.node // decoding says that it is no text
			kept.add([]byte(`"nodeID"`), value)
			return err
		}
		return kept.take(key, a)
	})
	if err != nil || !ours {
		return nil, err
	}
	return kept.object(), nil
}

func quote(s string) []byte {
	b, _ := jsontext.AppendQuote(nil, s) // invalid UTF-8 becomes U+FFFD
	return b
}

// members are an object's JSON members, each with a comma after it.
type members []byte

func (m *members) add(key, value []byte) {
	*m = append(*m, key...)
	*m = append(*m, ':')
	*m = append(*m, value...)
	*m = append(*m, ',')
}

func (m *members) take(key []byte, a *reader) error {
	key = bytes.Clone(key)
	value, err := a.ReadValue()
	m.add(key, value)
	return err
}

func (m members) object() []byte {
	out := append([]byte{'{'}, bytes.TrimSuffix(m, []byte(","))...)
	return append(out, '}')
}

func decode(trimmed []byte) (v1alpha1.NodeENI, error) {
	var o v1alpha1.NodeENI
	err := kjson.UnmarshalCaseSensitivePreserveInts(trimmed, &o)
	return o, err
}
