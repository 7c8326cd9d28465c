package nodeeni

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// item is a NodeENI of the API server, cut down to the parts that this node needs.
// Its metadata has the fields that a reflector uses: name, resource version, and a
// bookmark's annotations.
type item struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	// trimmed is the JSON of metadata (name, uid, generation, deletionTimestamp
	// and the annotation that is ours), spec, and this node's attachments. Equal
	// text is an equal object.
	trimmed []byte
}

// DeepCopyObject implements runtime.Object.
func (i *item) DeepCopyObject() runtime.Object {
	out := &item{TypeMeta: i.TypeMeta, trimmed: bytes.Clone(i.trimmed)}
	i.DeepCopyInto(&out.ObjectMeta)
	return out
}

type trimmer struct{ node string }

// object consumes one NodeENI, which must say that it is one.
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

// metadata consumes an object's metadata and returns the part that is kept. The
// resource version is not: it changes with the attachments of other nodes.
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

// annotations consumes an object's annotations, two of which matter.
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

// status consumes a NodeENI's status and returns the part about this node. A value
// without the shape of a status is kept as it is: decoding will say so.
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

// foreign says of an entry that it surely belongs to another node than the one of
// that name, given in quotes; own decides about the others. Nearly all entries are
// foreign, and reading their members would take most of the time.
func foreign(entry, name []byte) bool {
	return entry[0] == '{' && bytes.Count(entry, []byte(`"nodeID"`)) == 1 && bytes.Contains(entry, []byte(`"nodeID":"`)) &&
		!bytes.Contains(entry, name) && bytes.IndexByte(entry, '\\') < 0
}

// own returns an entry of this node without the time at which it was written, which
// changes without any news; nil where it belongs to another node.
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

// members are the members of a JSON object that is being put together, with a
// comma after each.
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
