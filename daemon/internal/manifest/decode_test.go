package manifest

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		"", "# comment\n---\n", "---\n...\n---", "\ufeff{}", "{", "[]", "hello", "%YAML 1.2\n---\na: b",
		nodeENI("a"), nodeENI("a") + "---\n" + nodeENI("b"), nodeENI("a") + "  mtu: two\n", nodeENI("a") + "  mtuu: 2\n",
		"apiVersion: v1\nkind: List\nitems: [{apiVersion: networking.k8s.aws/v1alpha1, kind: NodeENI, metadata: {name: a}}, null, 7]\n",
		"apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENIList\nitems: null\n",
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"a","deletionTimestamp":"2025-05-01T10:00:00Z"}} {}`,
		"a: &a [*a]\n", "a: &a [b,b,b,b]\nc: &c [*a,*a,*a]\nd: [*c,*c,*c]\n", "? {a: b}\n: c\n", "1: 2\n.nan: .inf\n",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, isJSON bool) {
		path := "folder/x.yaml"
		if isJSON {
			path = "folder/x.json"
		}
		d := decode(path, []byte(text))
		unreadable := 0
		for _, p := range d.problems {
			if p.Device != path || !strings.Contains(p.Message, path) {
				t.Errorf("problem does not name the file: %+v", p)
			}
			if p.Reason == "UnreadableManifest" {
				unreadable++
			}
		}
		if d.complete != (unreadable == 0) {
			t.Errorf("complete = %v with %d unreadable documents", d.complete, unreadable)
		}
		if d.complete && strings.TrimSpace(text) == "" {
			t.Error("an empty file counts as complete")
		}
		for _, o := range d.objects {
			data, err := json.Marshal(o)
			if err != nil {
				t.Fatalf("encode what was decoded: %v", err)
			}
			again := decode("again.json", data)
			if len(again.objects) != 1 || len(again.problems) != 0 || !again.complete {
				t.Fatalf("decode %s again: %+v", data, again)
			}
			if diff := cmp.Diff(o, again.objects[0]); diff != "" {
				t.Errorf("decoded again (-first +second):\n%s", diff)
			}
		}
	})
}

// TestSplitYAML: a document ends at a marker at the start of a line, also behind empty lines.
func TestSplitYAML(t *testing.T) {
	for text, want := range map[string][]string{
		"":                           {""},
		"\n\na: 1\n\n---\nb: 2":      {"\n\na: 1\n\n", "\nb: 2"},
		"--- a\n...\n---\tb\n---":    {"", " a\n", "\n", "\tb\n", ""},
		"----\n ---\na: ---\n....\n": {"----\n ---\na: ---\n....\n"},
	} {
		var got []string
		for _, d := range splitYAML([]byte(text)) {
			got = append(got, string(d))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("documents of %q (-want +got):\n%s", text, diff)
		}
	}
}

// TestTornJSON: the error names the document that cannot be read.
func TestTornJSON(t *testing.T) {
	docs, err := splitJSON([]byte("{} {"))
	if len(docs) != 1 || err == nil || !strings.HasPrefix(err.Error(), "read document 2: ") {
		t.Errorf("%d documents, error %v; want 1, and an error of document 2", len(docs), err)
	}
}

// TestLargestManifest: a file of the largest size is read.
func TestLargestManifest(t *testing.T) {
	dir := t.TempDir()
	text := nodeENI("a") + "#"
	write(t, dir, "a.yaml", text+strings.Repeat("x", maxFileSize-len(text)))
	if snap := list(t, New(dir)); names(snap) != "a" || !snap.Complete {
		t.Errorf("%d objects, complete %v, problems %+v", len(snap.Objects), snap.Complete, snap.Problems)
	}
}

func TestProblemMessages(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "1.yaml", nodeENI("a")+"  mtuu: 1\n")
	write(t, dir, "2.yaml", nodeENI("a"))
	write(t, dir, "3.yaml", "apiVersion: v1\nkind: Pod\n")
	write(t, dir, "4.yaml", "")
	write(t, dir, "5.yaml", nodeENI("b")+"  deviceIndex: two\n")
	f := func(name string) string { return filepath.Join(dir, name) }
	want := []nodestate.Problem{
		{Reason: "UnknownField", NodeENI: "a", Device: f("1.yaml"), Message: `file "1.yaml": document 1: unknown field "spec.mtuu"; ` +
			`the API server would drop it, correct or remove it`},
		{Reason: "DuplicateNodeENI", NodeENI: "a", Device: f("2.yaml"), Message: `file "2.yaml" declares NodeENI "a" again, ` +
			`which file "1.yaml" declares; the first counts, give one of them another name`},
		{Reason: "OtherKind", Device: f("3.yaml"), Message: `file "3.yaml": document 1 has apiVersion "v1" and kind "Pod", ` +
			`which is left alone; only NodeENI is read here, move it elsewhere`},
		{Reason: "UnreadableManifest", Device: f("4.yaml"), Message: `file "4.yaml": declares nothing; an editor may be about to write it; ` +
			`no NodeENI of this folder counts as removed until you correct or remove the file`},
		{Reason: "NodeENIUnreadable", NodeENI: "b", Device: f("5.yaml"), Message: `file "5.yaml": read document 1: json: cannot unmarshal string ` +
			`into Go struct field NodeENISpec.spec.deviceIndex of type int; the devices of this NodeENI stay as they are until you correct it`},
	}
	for i := range want { // a message has the path
		want[i].Message = strings.ReplaceAll(want[i].Message, `file "`, `file "`+dir+"/")
	}
	same(t, "problems", want, list(t, New(dir)).Problems)
}
