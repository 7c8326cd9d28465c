package nodeeni

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/watch"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

const stored = `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"n","uid":"u","generation":2,"resourceVersion":"7",
 "creationTimestamp":"2025-01-01T00:00:00Z","deletionTimestamp":"2025-01-02T00:00:00Z","labels":{"a":"b"},
 "annotations":{"x":"y","networking.k8s.aws/allowed-namespaces":"a,b"},"managedFields":[{"manager":"m","fieldsV1":{"f:spec":{}}}]},
 "spec":{"nodeSelector":{"ng":"x"},"subnetID":"subnet-1","mtu":9001,"deviceIndex":2},
 "status":{"attachments":[{"nodeID":"node-b","eniID":"eni-b"},{"nodeID":"node-a","eniID":"eni-a","lastUpdated":"2025-01-01T00:00:00Z","deviceIndex":2},
  {"eniID":"eni-c","nodeID":"node-c"}],"other":[1]}}`

func TestTrimKeepsWhatIsOurs(t *testing.T) {
	it, err := trimmer{node: "node-a"}.object(newReader(strings.NewReader(stored), 0))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"metadata":{"name":"n","uid":"u","generation":2,"deletionTimestamp":"2025-01-02T00:00:00Z",` +
		`"annotations":{"networking.k8s.aws/allowed-namespaces":"a,b"}},` +
		`"spec":{"nodeSelector":{"ng":"x"},"subnetID":"subnet-1","mtu":9001,"deviceIndex":2},` +
		`"status":{"attachments":[{"nodeID":"node-a","eniID":"eni-a","deviceIndex":2}]}}`
	if diff := cmp.Diff(want, string(it.trimmed)); diff != "" {
		t.Errorf("trimmed (-want +got):\n%s", diff)
	}
	if it.Name != "n" || it.ResourceVersion != "7" || it.Kind != v1alpha1.Kind || it.APIVersion != v1alpha1.APIVersion {
		t.Errorf("item is %+v", it)
	}
}

func TestTrimIsBlindToOthers(t *testing.T) {
	trimmed := func(object string) string {
		t.Helper()
		it, err := trimmer{node: "node-a"}.object(newReader(strings.NewReader(object), 0))
		if err != nil {
			t.Fatal(err)
		}
		return string(it.trimmed)
	}
	for name, change := range map[string][2]string{
		"another node's ENI":      {`"eni-b"`, `"eni-d"`},
		"another node's entry":    {`{"nodeID":"node-b","eniID":"eni-b"},`, ``},
		"resource version":        {`"7"`, `"8"`},
		"managed fields":          {`"manager":"m"`, `"manager":"o"`},
		"label":                   {`{"a":"b"}`, `{"a":"c"}`},
		"annotation":              {`"x":"y"`, `"x":"z"`},
		"time of our own entry":   {`"lastUpdated":"2025-01-01T00:00:00Z"`, `"lastUpdated":"2026-01-01T00:00:00Z"`},
		"another field of status": {`"other":[1]`, `"other":{}`},
	} {
		if !strings.Contains(stored, change[0]) {
			t.Fatalf("%s: %q is not there to be changed", name, change[0])
		}
		if diff := cmp.Diff(trimmed(stored), trimmed(strings.Replace(stored, change[0], change[1], 1))); diff != "" {
			t.Errorf("%s shows:\n%s", name, diff)
		}
	}
	for name, change := range map[string][2]string{
		"our ENI":    {`"eni-a"`, `"eni-d"`},
		"a rename":   {`"nodeID":"node-b"`, `"nodeID":"node-a"`},
		"spec":       {`9001`, `9000`},
		"generation": {`"generation":2`, `"generation":3`},
		"uid":        {`"uid":"u"`, `"uid":"v"`},
		"namespaces": {`"a,b"`, `"a"`},
		"escaped":    {`"nodeID":"node-b"`, `"nodeID":"node\u002da"`},
	} {
		if trimmed(stored) == trimmed(strings.Replace(stored, change[0], change[1], 1)) {
			t.Errorf("%s does not show", name)
		}
	}
}

func TestTrimRefuses(t *testing.T) {
	for _, body := range []string{
		``, `null`, `{}`, `[]`, `<html>`, `{"items":[]}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"1"}}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"1"},"items":null}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{},"items":[]}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"1"},"items":[{}]}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"1"},"items":[]`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"1"},"items":[]}x`,
		`{"apiVersion":"v1","kind":"List","metadata":{"resourceVersion":"1"},"items":[]}`,
		`{"apiVersion":"v1","kind":"Status","status":"Failure"}`,
	} {
		if l, err := (trimmer{node: "node-a"}).list(newReader(strings.NewReader(body), 0)); !errors.Is(err, errMalformed) {
			t.Errorf("list %q is taken for %+v, error %v", body, l, err)
		}
	}
	for _, frame := range []string{
		`{}`, `{"type":"ADDED"}`, `{"type":"ADDED","object":{}}`, `{"type":"RENAMED","object":` + stored + `}`,
		`{"type":"DELETED","object":{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{}}}`,
		`{"type":"DELETED","object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"n"}}}`,
		`{"type":"ERROR","object":7}`,
	} {
		if kind, o, err := (trimmer{node: "node-a"}).event(newReader(strings.NewReader(frame), 0)); !errors.Is(err, errMalformed) {
			t.Errorf("event %q is taken for %q %+v, error %v", frame, kind, o, err)
		}
	}
}

func TestListOfEvents(t *testing.T) {
	stream := " " + `{"type":"ADDED","object":` + stored + "}\n" +
		`{"type":"BOOKMARK","object":{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI",` +
		`"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}` +
		`{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}` + "\r\n"
	var kinds []watch.EventType
	a := newReader(iotest.OneByteReader(strings.NewReader(stream)), maxEventBytes)
	for {
		kind, _, err := trimmer{node: "node-a"}.event(a)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, kind)
	}
	if diff := cmp.Diff([]watch.EventType{watch.Added, watch.Bookmark, watch.Error}, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestStreamEnds(t *testing.T) {
	one := `{"object":` + stored + `,"type":"ADDED"}`
	for stream, want := range map[string]error{
		"":                       io.EOF,
		"  \n":                   io.EOF,
		`{"type":"}`:             io.ErrUnexpectedEOF,
		`{"a":"\"}`:              io.ErrUnexpectedEOF,
		`{`:                      io.ErrUnexpectedEOF,
		one[:len(one)-1]:         io.ErrUnexpectedEOF,
		`}`:                      errMalformed,
		`x`:                      errMalformed,
		`"a"`:                    errMalformed,
		`[]`:                     errMalformed,
		strings.Repeat(one, 3):   io.EOF,
		one + "\n" + one + "\n]": errMalformed,
	} {
		if _, err := eventsOf(strings.NewReader(stream)); !errors.Is(err, want) {
			t.Errorf("stream %q ends with %v, want %v", stream, err, want)
		}
	}
	for name, r := range map[string]io.Reader{"an event without end": endless{}, "a text without end": io.MultiReader(strings.NewReader(`{"type":"`), endless{})} {
		if _, err := eventsOf(r); !errors.Is(err, errMalformed) {
			t.Errorf("%s gives %v", name, err)
		}
	}
	broken := errors.New("connection reset by peer")
	if _, err := eventsOf(io.MultiReader(strings.NewReader(one+`{"type":`), iotest.ErrReader(broken))); err != broken { //nolint:errorlint // a watch compares it
		t.Errorf("a broken connection gives %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '['
	}
	return len(p), nil
}

// FuzzTrim: trimming before or after decoding gives the same, and JSON never changes its meaning.
func FuzzTrim(f *testing.F) {
	f.Add([]byte(stored))
	f.Add([]byte(`{"metadata":{"name":"a\"b\\","annotations":null},"spec":null,"status":{"attachments":[null,{"nodeID":"node-a"}]}}`))
	f.Add([]byte(`{"metadata":7,"spec":[],"status":{"attachments":{"nodeID":"node-a"}}}`))
	f.Add([]byte(`{"status":{"attachments":[{"nodeID":"node-b","mtu":"x"},{"nodeID":5}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		it, err := trimmer{node: "node-a"}.object(newReader(bytes.NewReader(data), 0))
		isObject := json.Valid(data) && bytes.HasPrefix(bytes.TrimSpace(data), []byte("{"))
		if isObject && err != nil {
			// Decoding refuses a name that is not a string; so does trimming.
			var whole v1alpha1.NodeENI
			if kjson.UnmarshalCaseSensitivePreserveInts(data, &whole) == nil && !bytes.Contains(data, []byte("null")) {
				t.Fatalf("object refused: %v", err)
			}
		}
		if err != nil || !isObject {
			return
		}
		var whole v1alpha1.NodeENI
		if kjson.UnmarshalCaseSensitivePreserveInts(data, &whole) != nil || repeated(data) {
			return
		}
		got, err := decode(it.trimmed)
		if err != nil {
			t.Fatalf("trimmed text %s: %v", it.trimmed, err)
		}
		if diff := cmp.Diff(cutDown(whole), cutDown(got)); diff != "" {
			t.Errorf("of %s remains %s (-want +got):\n%s", data, it.trimmed, diff)
		}
	})
}

// repeated: an object has a key twice. The API server never writes that, and decoders differ about it.
func repeated(data []byte) bool {
	var v any
	strict, err := kjson.UnmarshalStrict(data, &v)
	return err != nil || len(strict) > 0
}

func cutDown(o v1alpha1.NodeENI) v1alpha1.NodeENI {
	out := v1alpha1.NodeENI{Spec: o.Spec}
	out.Name, out.UID, out.Generation, out.DeletionTimestamp = o.Name, o.UID, o.Generation, o.DeletionTimestamp
	if v, ok := o.Annotations[v1alpha1.AnnotationAllowedNamespaces]; ok {
		out.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: v}
	}
	for _, a := range o.Status.Attachments {
		if a.NodeID == "node-a" {
			a.LastUpdated.Reset()
			out.Status.Attachments = append(out.Status.Attachments, a)
		}
	}
	return out
}

// FuzzWatch: the events of a stream, and its end, do not depend on how its bytes arrive.
func FuzzWatch(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":` + stored + `}` + "\n" + `{"object":{"kind":"Status"},"type":"ERROR"}`))
	f.Add([]byte(`[{]}{"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, end := eventsOf(bytes.NewReader(data))
		byOne, endByOne := eventsOf(iotest.OneByteReader(bytes.NewReader(data)))
		if diff := cmp.Diff(whole, byOne); diff != "" || errors.Is(end, errMalformed) != errors.Is(endByOne, errMalformed) {
			t.Errorf("octet by octet it ends with %v instead of %v, with other events:\n%s", endByOne, end, diff)
		}
		for dec, raw := json.NewDecoder(bytes.NewReader(data)), json.RawMessage(nil); end == io.EOF; { //nolint:errorlint // the stream watcher compares it
			if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%q is taken for JSON: %v", data, err)
			}
		}
	})
}

func eventsOf(r io.Reader) (out []string, err error) {
	a := newReader(r, maxEventBytes)
	for {
		a.more()
		kind, o, err := trimmer{node: "node-a"}.event(a)
		if err != nil {
			return out, err
		}
		text := string(kind)
		if it, ok := o.(*item); ok {
			text += string(it.trimmed)
		}
		out = append(out, text)
	}
}
