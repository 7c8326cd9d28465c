package nodeeni

import (
	"bytes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// item is a NodeENI as it came from the API server, cut down to what this node
// needs of it. Its metadata has what a reflector asks for: name, resource version,
// and a bookmark's annotations.
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

// trimmer cuts objects down for one node.
type trimmer struct{ node string }

// object consumes one NodeENI, which must say that it is one.
func (t trimmer) object(s *scanner) (*item, error) {
	var out item
	var spec, status []byte
	meta := []byte("{}")
	err := s.object(func(key []byte) (err error) {
		switch string(key) {
		case `"apiVersion"`:
			out.APIVersion, err = s.text()
		case `"kind"`:
			out.Kind, err = s.text()
		case `"metadata"`:
			meta, err = metadata(s, &out.ObjectMeta)
		case `"spec"`:
			spec, err = s.value()
		case `"status"`:
			status, err = t.status(s)
		default:
			_, err = s.value()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(len(meta) + len(spec) + len(status) + len(`{"metadata":,"spec":,"status":}`))
	b.WriteString(`{"metadata":`)
	b.Write(meta)
	if spec != nil {
		b.WriteString(`,"spec":`)
		b.Write(spec)
	}
	if status != nil {
		b.WriteString(`,"status":`)
		b.Write(status)
	}
	b.WriteByte('}')
	out.trimmed = b.Bytes()
	return &out, nil
}

// metadata consumes an object's metadata and returns what is kept of it. The
// resource version is not: it changes with what other nodes are told.
func metadata(s *scanner, out *metav1.ObjectMeta) ([]byte, error) {
	if s.peek() != '{' {
		return s.value()
	}
	var kept members
	err := s.object(func(key []byte) (err error) {
		start := s.i
		switch string(key) {
		case `"resourceVersion"`:
			out.ResourceVersion, err = s.text()
			return err
		case `"name"`:
			out.Name, err = s.text()
		case `"annotations"`:
			return annotations(s, out, &kept)
		case `"uid"`, `"generation"`, `"deletionTimestamp"`:
			_, err = s.value()
		default:
			_, err = s.value()
			return err
		}
		kept.add(key, s.b[start:s.i])
		return err
	})
	return kept.object(), err
}

// annotations consumes an object's annotations, of which two matter.
func annotations(s *scanner, out *metav1.ObjectMeta, kept *members) error {
	if s.peek() != '{' {
		_, err := s.value()
		return err
	}
	var ours members
	err := s.object(func(key []byte) (err error) {
		start := s.i
		switch string(key) {
		case `"` + metav1.InitialEventsAnnotationKey + `"`:
			var v string
			if v, err = s.text(); err == nil {
				out.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: v}
			}
			return err
		case `"` + v1alpha1.AnnotationAllowedNamespaces + `"`:
			_, err = s.value()
			ours.add(key, s.b[start:s.i])
		default:
			_, err = s.value()
		}
		return err
	})
	if ours != nil {
		kept.add([]byte(`"annotations"`), ours.object())
	}
	return err
}

// status consumes a NodeENI's status and returns what is said of this node. What
// has not the shape of a status is kept as it is: decoding will say so.
func (t trimmer) status(s *scanner) ([]byte, error) {
	if s.peek() != '{' {
		return s.value()
	}
	var kept members
	err := s.object(func(key []byte) error {
		if string(key) != `"attachments"` {
			_, err := s.value()
			return err
		}
		value, err := t.attachments(s)
		kept.add(key, value)
		return err
	})
	return kept.object(), err
}

func (t trimmer) attachments(s *scanner) ([]byte, error) {
	if s.peek() != '[' {
		return s.value()
	}
	out := []byte{'['}
	err := s.array(func() error {
		entry, foreign, err := t.attachment(s)
		if err != nil || foreign {
			return err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, entry...)
		return nil
	})
	return append(out, ']'), err
}

// attachment consumes one entry and says whether it belongs to another node, as
// most do: nothing of those is copied.
func (t trimmer) attachment(s *scanner) (entry []byte, foreign bool, err error) {
	if s.peek() != '{' {
		entry, err = s.value()
		return entry, false, err
	}
	start, foreign := s.i, true
	err = s.object(func(key []byte) (err error) {
		switch {
		case string(key) != `"nodeID"`:
			_, err = s.value()
		case s.peek() == '"':
			foreign, err = s.textIsNot(t.node)
		default: // no text at all: decoding will say so
			foreign = false
			_, err = s.value()
		}
		return err
	})
	if err != nil || foreign {
		return nil, foreign, err
	}
	s.i = start
	entry, err = ownAttachment(s)
	return entry, false, err
}

// ownAttachment consumes one entry and returns it without the time at which it
// was written, which changes without any news.
func ownAttachment(s *scanner) ([]byte, error) {
	var kept members
	err := s.object(func(key []byte) error {
		value, err := s.value()
		if string(key) != `"lastUpdated"` {
			kept.add(key, value)
		}
		return err
	})
	return kept.object(), err
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

func (m members) object() []byte {
	out := append([]byte{'{'}, bytes.TrimSuffix(m, []byte(","))...)
	return append(out, '}')
}

// decode reads a trimmed object.
func decode(trimmed []byte) (v1alpha1.NodeENI, error) {
	var o v1alpha1.NodeENI
	err := kjson.UnmarshalCaseSensitivePreserveInts(trimmed, &o)
	return o, err
}
