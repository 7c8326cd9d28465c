package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// maxAnnotations is the API server's limit for all annotations of an object, in octets
// (TotalAnnotationSizeLimitB in k8s.io/apimachinery/pkg/api/validation/objectmeta.go).
const maxAnnotations = 256 << 10

func namespaces(octets int) string {
	var b strings.Builder
	for i := 0; b.Len() < octets-64; i++ {
		fmt.Fprintf(&b, "tenant-%d,", i)
	}
	return b.String() + "z"
}

func allowing(list string) func(*v1alpha1.NodeENI) {
	return func(o *v1alpha1.NodeENI) {
		o.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: list}
	}
}

// hostile are NodeENIs that the API server accepts although a node may have no room for them.
func hostile(r *rand.Rand) map[string]func(*v1alpha1.NodeENI) {
	all := map[string]func(*v1alpha1.NodeENI){}
	subnets := func(n int, id func(int) string) func(*v1alpha1.NodeENI) {
		return func(o *v1alpha1.NodeENI) {
			for i := range n {
				o.Spec.SubnetIDs = append(o.Spec.SubnetIDs, id(i))
			}
		}
	}
	valid := func(i int) string { return subnet(i + 100).String() }
	for i := range 1 + r.IntN(3) {
		name := fmt.Sprintf("h%d-%s", i, strings.Repeat("n", r.IntN(200)))
		switch r.IntN(7) {
		case 0: // 14,000 namespaces and 20 subnets
			long := allowing(namespaces(maxAnnotations))
			all[name] = func(o *v1alpha1.NodeENI) { long(o); subnets(20, valid)(o) }
		case 1: // names that are none
			all[name] = allowing(strings.Repeat("A_", maxAnnotations/3) + strings.Repeat("B_ ", maxAnnotations/4))
		case 2:
			all[name] = subnets(20_000, valid)
		case 3:
			all[name] = subnets(20_000, func(i int) string { return fmt.Sprintf("no subnet %d", i) })
		case 4: // a status that names ENIs which nobody has
			all[name] = func(o *v1alpha1.NodeENI) {
				for i := range 7000 {
					o.Status.Attachments = append(o.Status.Attachments, v1alpha1.ENIAttachment{NodeID: node, ENIID: fmt.Sprintf("eni-%017x", i+1000)})
				}
			}
		case 5:
			all[name] = func(o *v1alpha1.NodeENI) {
				for range 7000 {
					o.Status.Attachments = append(o.Status.Attachments, v1alpha1.ENIAttachment{NodeID: node, ENIID: "none"})
				}
				o.Spec.DPDKResourceName = strings.Repeat("x/", 1<<19)
			}
		case 6: // many
			list := namespaces(r.IntN(8 << 10))
			for k := range 3000 {
				all[fmt.Sprintf("%s-%d", name[:2], k)] = allowing(list)
			}
		}
	}
	return all
}

func ours(res Result) (rows []string) {
	for _, d := range res.Devices {
		if d.NodeENI == "a" || d.NodeENI == "z" {
			rows = append(rows, fmt.Sprintf("%s %s %v", d.NodeENI, d.Phase, d.AllowedNamespaces))
		}
	}
	return rows
}

// fits checks that readers accept the files and the object made of a result, and that no namespace gains a device.
func fits(t *testing.T, res Result) {
	t.Helper()
	dir := t.TempDir()
	problems := FitProblems(slices.Clone(res.Problems))
	if err := nodestate.WriteInventory(filepath.Join(dir, "i"), nodestate.Inventory{Devices: res.Devices, Problems: problems}); err != nil {
		t.Error(err)
	}
	// Beside the devices, the checkpoint has a config of a MiB at most.
	config := json.RawMessage(`"` + string(bytes.Repeat([]byte("x"), 1<<20)) + `"`)
	if err := nodestate.WriteCheckpoint(filepath.Join(dir, "c"), nodestate.Checkpoint{Devices: res.Checkpoint, LastGoodConfig: config}); err != nil {
		t.Error(err)
	}
	// In the ENINodeState there are neither lists of namespaces nor settings.
	state := len(problems)
	for _, d := range res.Devices {
		d.AllowedNamespaces = nil
		data, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		state += len(data)
	}
	for _, p := range problems {
		state += len(p.Message) + len(p.NodeENI) + len(p.Device) + 80
	}
	if state > 1<<20 {
		t.Errorf("the ENINodeState has about %d octets", state)
	}
	for _, d := range res.Devices {
		if strings.HasPrefix(d.NodeENI, "h") && d.AllowedNamespaces != nil && len(d.AllowedNamespaces) == 0 {
			t.Errorf("every namespace may use the device of %.20s", d.NodeENI)
		}
	}
}

// No NodeENI that the API server accepts changes other NodeENIs' rows, lists or removals, or makes a file too large for
// its readers.
func TestNoNodeENITakesAnothersRoom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's input
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		w := newWorld(1, 2, 3)
		w.declare("a", 1, allowing("shop,web"))
		w.declare("z", 2)
		w.sync()
		for name, edit := range hostile(r) {
			w.declare(name, 3, edit)
		}
		w.sync()
		res := w.sync()
		if got, want := ours(res), []string{"a ready [shop web]", "z ready []"}; !slices.Equal(got, want) {
			t.Errorf("rows %q, want %q", got, want)
		}
		fits(t, res)
		for _, p := range res.Problems {
			if p.NodeENI == "a" || p.NodeENI == "z" {
				t.Errorf("problem %+v", p)
			}
		}
		delete(w.objects, "z")
		w.sync()
		res = w.sync()
		if got, want := ours(res), []string{"a ready [shop web]"}; !slices.Equal(got, want) {
			t.Errorf("after the removal: rows %q, want %q", got, want)
		}
		fits(t, res)
	}
}

// A list without room allows no namespace, and a Problem names the NodeENI; one that is as long, and alone in its row,
// fits.
func TestTooLongIsClosed(t *testing.T) {
	w := newWorld(1, 2, 3, 4, 5, 6, 7)
	w.declare("long", 1, allowing(namespaces(maxAnnotations)), func(o *v1alpha1.NodeENI) {
		o.Spec.SubnetID = ""
		for n := range 6 {
			o.Spec.SubnetIDs = append(o.Spec.SubnetIDs, subnet(n+1).String())
		}
	})
	w.declare("one", 7, allowing(namespaces(maxAnnotations)))
	w.sync()
	res := w.sync()
	for _, d := range res.Devices {
		if closed := slices.Equal(d.AllowedNamespaces, []string{""}); closed != (d.NodeENI == "long") ||
			!closed && len(d.AllowedNamespaces) < 10_000 || d.Phase != nodestate.PhaseReady {
			t.Errorf("%s: %s, %d namespaces", d.NodeENI, d.Phase, len(d.AllowedNamespaces))
		}
	}
	if len(res.Devices) != 7 || len(res.Problems) != 1 || res.Problems[0].Reason != "AllowedNamespacesTooLong" || res.Problems[0].NodeENI != "long" {
		t.Errorf("%d devices, problems %+v", len(res.Devices), res.Problems)
	}
}

// One NodeENI's problems do not hide another's, and those of many do not hide problems without a NodeENI.
func TestProblemsFit(t *testing.T) {
	var all []nodestate.Problem
	for i := range 20_000 {
		all = append(all, nodestate.Problem{Reason: "X", NodeENI: fmt.Sprintf("n%05d", i/20), Message: strings.Repeat("ä", 600)})
	}
	all = append(all, nodestate.Problem{Reason: "Y", NodeENI: "short", Message: "y"}, nodestate.Problem{Reason: "Z", Message: "z"})
	got := FitProblems(all)
	size, seen := 0, map[string]bool{}
	for _, p := range got {
		size += len(p.Message)
		seen[string(p.Reason)] = true
	}
	if size > problemBudget+1024 || !seen["X"] || !seen["Y"] || !seen["Z"] || !seen["MoreProblems"] {
		t.Errorf("%d octets, %v", size, seen)
	}
}

func TestInvalidDeviceIndex(t *testing.T) {
	for _, index := range []int{1 << 40, 1<<63 - 1} {
		w := newWorld(1, 2)
		w.declare("a", 1)
		w.declare("b", 2)
		w.sync()
		w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.DeviceIndex = index })
		delete(w.objects, "b")
		w.sync()
		res := w.sync()
		if len(res.Devices) != 1 || res.Devices[0].NodeENI != "a" || res.Devices[0].Phase != nodestate.PhaseReady {
			t.Errorf("rows %+v", res.Devices)
		}
		if len(res.Problems) != 1 || res.Problems[0].Reason != "InvalidDeviceIndex" {
			t.Errorf("problems %+v", res.Problems)
		}
	}
}

func TestOver(t *testing.T) {
	shares := map[string]int{"small": 1, "b": 5, "a": 5}
	for budget, want := range map[int][]string{11: nil, 10: {"b"}, 5: {"a", "b"}, 0: {"a", "b", "small"}} {
		if got := over(shares, budget); !slices.Equal(got, want) {
			t.Errorf("over a budget of %d: %q, want %q", budget, got, want)
		}
	}
}

func TestListSize(t *testing.T) {
	for _, list := range [][]string{{"a"}, {"shop", "web", "a-longer-name"}} {
		data, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := listSize(list), len(data)-len("[]")+len(","); got != want {
			t.Errorf("listSize(%q) = %d, want %d", list, got, want)
		}
	}
}

// A NodeENI with too many ENIs that the machine does not show loses their rows, but not its placed row or others' rows.
func TestTooManyMissingENIs(t *testing.T) {
	long := strings.Repeat("n", 250)
	w := newWorld(1, 2)
	w.declare("a", 1)
	w.declare("missing", 9)
	w.declare(long, 2, func(o *v1alpha1.NodeENI) {
		for i := range 200 { // with the name, each row takes 750 octets of the 128 KiB
			o.Spec.SubnetIDs = append(o.Spec.SubnetIDs, subnet(100+i).String())
		}
	})
	w.sync()
	r := w.sync()
	var rows []string
	for _, d := range r.Devices {
		rows = append(rows, d.NodeENI[:1]+" "+d.ENIID.String())
	}
	if want := []string{"a " + eniID(1).String(), "m ", "n " + eniID(2).String()}; !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	if !slices.ContainsFunc(r.Problems, func(p nodestate.Problem) bool { return p.Reason == "TooManyENIs" && p.NodeENI == long }) {
		t.Errorf("no problem TooManyENIs: %q", reasons(r))
	}
}

// ENIs beyond the limit are left out, so the rest of the NodeENI's meaning counts as unknown.
func TestFitDeclarations(t *testing.T) {
	for n, cut := range map[int]bool{maxENIs: false, maxENIs + 1: true} {
		j := &joiner{}
		d := declarations{enis: make([]declaration, n)}
		j.fitDeclarations("a", &d)
		if d.undecided != cut || (len(j.problems) > 0) != cut || len(d.enis) != maxENIs {
			t.Errorf("%d ENIs: %d kept, undecided %v, problems %v", n, len(d.enis), d.undecided, j.problems)
		}
	}
}

func TestProblemsOfOneNodeENI(t *testing.T) {
	for faults, more := range map[int]string{20: "", 22: "2 more problems of this NodeENI are not shown; mend the shown ones"} {
		w := newWorld(1)
		w.declare("a", 1, func(o *v1alpha1.NodeENI) {
			o.Spec.SubnetID = ""
			for i := range faults {
				o.Spec.SubnetIDs = append(o.Spec.SubnetIDs, fmt.Sprintf("none-%d", i))
			}
		})
		shown, message := 0, ""
		for _, p := range w.join().Problems {
			switch p.Reason {
			case "InvalidSubnetID":
				shown++
			case "MoreProblems":
				message = p.Message
			}
		}
		if shown != maxProblems || message != more {
			t.Errorf("%d faults: %d are shown, and %q; want %d, and %q", faults, shown, message, maxProblems, more)
		}
	}
}

func TestProblemsCountWhole(t *testing.T) {
	text := strings.Repeat("x", 200)
	for field, p := range map[string]nodestate.Problem{
		"reason": {Reason: nodestate.Reason(text), NodeENI: "n"}, "NodeENI": {NodeENI: text},
		"device": {NodeENI: "n", Device: text}, "message": {NodeENI: "n", Message: text},
	} {
		got := FitProblems(slices.Repeat([]nodestate.Problem{p}, problemBudget/200+1))
		if len(got) != 1 || got[0].Reason != "MoreProblems" {
			t.Errorf("too many octets in the %s: %d problems are shown", field, len(got))
		}
	}
}

func TestShorten(t *testing.T) {
	fits := strings.Repeat("m", maxMessage)
	for message, want := range map[string]string{
		fits: fits, fits + "12345": fits + "… (5 octets more)",
		fits[1:] + "ä1": fits[1:] + "… (2 octets more)",
	} {
		if got := shorten(message); got != want {
			t.Errorf("shorten(…%q) = …%q, want …%q", message[maxMessage-2:], got[maxMessage-2:], want[maxMessage-2:])
		}
	}
}
