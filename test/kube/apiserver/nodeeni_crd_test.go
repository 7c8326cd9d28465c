package apiserver

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// installation is a CRD, and a column that shows when it is served.
type installation struct{ name, path, column string }

func public() installation {
	return installation{"public", "testdata/public_nodeenis.yaml", "Nodes"}
}

func ours(t *testing.T) installation {
	return installation{"ours", deployed(t, "crd/networking.k8s.aws_nodeenis.yaml"), "Resource"}
}

func install(t *testing.T, c *cluster.Cluster, i installation) {
	t.Helper()
	c.ApplyFile(t, i.path)
	cluster.Eventually(t, "the "+i.name+" CRD in use", settleTimeout, func() error {
		if columns, _ := table(t, c, nodeENIs); !slices.Contains(columns, i.column) {
			return fmt.Errorf("columns %q", columns)
		}
		return nil
	})
}

func values() []string {
	return []string{
		`null`, `true`, `false`, `"true"`, `""`, `"x"`, `"1"`, `"07.0"`, `"0000:00:07.0"`, `"subnet-0a1b2c3d"`, `"2025-05-01T10:00:00Z"`, `"yesterday"`,
		`0`, `1`, `-1`, `67`, `9217`, `1e3`, `1.0`, `1.5`, `2147483648`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`, `1e30`,
		`[]`, `[null]`, `["a"]`, `["a",null]`, `["a","a"]`, `[1]`, `[["a"]]`, `[{}]`, `{}`, `{"a":"b"}`, `{"a":1}`, `{"a":null}`, `{"a":{"b":"c"}}`,
	}
}

func specFields() []string {
	return []string{
		"nodeSelector", "subnetID", "subnetName", "subnetIDs", "subnetNames", "securityGroupIDs", "securityGroupNames", "deviceIndex",
		"deleteOnTermination", "description", "mtu", "enableDPDK", "dpdkDriver", "dpdkResourceName", "dpdkPCIAddress", "unknown",
	}
}

func attachmentFields() []string {
	return []string{
		"nodeID", "instanceID", "eniID", "attachmentID", "subnetID", "subnetCIDR", "mtu", "deviceIndex", "status", "lastUpdated",
		"dpdkBound", "dpdkDriver", "dpdkResourceName", "dpdkPCIAddress", "unknown",
	}
}

// nodeENI is an object's JSON text; rest follows its metadata.
func nodeENI(rest string) string {
	return `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"tried"}` + rest + `}`
}

func objects(random *rand.Rand) []string {
	all := []string{
		nodeENI(``),
		nodeENI(`,"spec":{"nodeSelector":{"ng":"multi-eni"},"subnetID":"subnet-0a1b2c3d","dpdkPCIAddress":"07.0","mtu":1}`),
		nodeENI(`,"spec":{},"unknown":{"a":1}`),
		nodeENI(`,"spec":{"nodeSelector":{}},"status":{"attachments":[{"nodeID":1}]}`),
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"Not_A_Name"},"spec":{"nodeSelector":{}}}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"tried","labels":{"a":1}},"spec":{"nodeSelector":{}}}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"tried","namespace":"default"},"spec":{"nodeSelector":{}}}`,
	}
	for _, v := range values() {
		all = append(all, nodeENI(`,"spec":`+v), nodeENI(`,"status":`+v), nodeENI(`,"unknown":`+v))
		for _, f := range specFields() {
			if f == "nodeSelector" {
				all = append(all, nodeENI(fmt.Sprintf(`,"spec":{%q:%s}`, f, v)))
			} else {
				all = append(all, nodeENI(fmt.Sprintf(`,"spec":{"nodeSelector":{},%q:%s}`, f, v)))
			}
		}
	}
	for range 300 {
		all = append(all, nodeENI(`,"spec":`+object(random, specFields())))
	}
	return all
}

func statuses(random *rand.Rand) []string {
	all := values()
	for _, v := range values() {
		all = append(all, `{"attachments":`+v+`}`, `{"unknown":`+v+`}`)
		for _, f := range attachmentFields() {
			all = append(all, fmt.Sprintf(`{"attachments":[{},{%q:%s}]}`, f, v))
		}
	}
	for range 200 {
		all = append(all, `{"attachments":[`+object(random, attachmentFields())+`]}`)
	}
	return all
}

func object(random *rand.Rand, fields []string) string {
	var b []string
	for _, f := range fields {
		if random.IntN(3) == 0 {
			b = append(b, strconv.Quote(f)+":"+values()[random.IntN(len(values()))])
		}
	}
	return "{" + strings.Join(b, ",") + "}"
}

// Our CRD accepts, defaults and prunes as the public controller's does, so a cluster may have either.
func TestNodeENICRDActsAsThePublicOne(t *testing.T) {
	c := cluster.Start(t)
	seed := rand.Uint64()
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	tried, reported := objects(random), statuses(random)
	if _, err := c.NodeENIs().Create(t.Context(), parse(t, strings.Replace(nodeENI(`,"spec":{"nodeSelector":{}}`), "tried", "kept", 1)),
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ask := func(i installation) (objects, statuses []answer) {
		install(t, c, i)
		for _, o := range tried {
			objects = append(objects, tryNodeENI(t, c, o))
		}
		for _, s := range reported {
			statuses = append(statuses, tryStatus(t, c, "kept", s))
		}
		return objects, statuses
	}
	wantObjects, wantStatuses := ask(public())
	gotObjects, gotStatuses := ask(ours(t))
	compare(t, tried, wantObjects, gotObjects)
	compare(t, reported, wantStatuses, gotStatuses)
}

func compare(t *testing.T, inputs []string, want, got []answer) {
	t.Helper()
	accepted, pruned := 0, 0
	for i, in := range inputs {
		if diff := cmp.Diff(want[i], got[i]); diff != "" {
			t.Errorf("%s: answered (-public +ours):\n%s", in, diff)
		}
		if want[i].Object != nil {
			accepted++
		}
		if slices.ContainsFunc(want[i].Warnings, func(w string) bool { return strings.HasPrefix(w, "unknown field") }) {
			pruned++
		}
	}
	t.Logf("%d inputs, %d accepted, %d with a pruned field", len(inputs), accepted, pruned)
	if accepted < len(inputs)/10 || len(inputs)-accepted < len(inputs)/10 || pruned == 0 {
		t.Errorf("of %d inputs %d are accepted and %d pruned, so that they show little", len(inputs), accepted, pruned)
	}
}

// The common behaviour, spelt out: the differential test would also pass if both were wrong.
func TestNodeENIIsAcceptedAndDefaulted(t *testing.T) {
	c := cluster.Start(t)
	tests := []struct {
		name, rest string
		code       int
		spec       map[string]any
	}{
		{name: "no spec", code: 201},
		{name: "spec without a selector", rest: `,"spec":{}`, code: 422},
		{name: "defaults", rest: `,"spec":{"nodeSelector":{}}`, code: 201,
			spec: map[string]any{"nodeSelector": map[string]any{}, "deviceIndex": 1.0, "deleteOnTermination": true}},
		{name: "odd MTU, short PCI address, unknown driver",
			rest: `,"spec":{"nodeSelector":{},"mtu":-5,"dpdkPCIAddress":"07.0","dpdkDriver":"ena","deviceIndex":0}`, code: 201,
			spec: map[string]any{"nodeSelector": map[string]any{}, "deviceIndex": 0.0, "deleteOnTermination": true, "mtu": -5.0, "dpdkPCIAddress": "07.0",
				"dpdkDriver": "ena"}},
		{name: "null takes the default", rest: `,"spec":{"nodeSelector":{},"deviceIndex":null,"mtu":null}`, code: 201,
			spec: map[string]any{"nodeSelector": map[string]any{}, "deviceIndex": 1.0, "deleteOnTermination": true}},
		{name: "null for a selector", rest: `,"spec":{"nodeSelector":null}`, code: 422},
		{name: "an unknown field is pruned", rest: `,"spec":{"nodeSelector":{},"interfaceName":"eth2","deleteOnTermination":false}`, code: 201,
			spec: map[string]any{"nodeSelector": map[string]any{}, "deviceIndex": 1.0, "deleteOnTermination": false}},
		{name: "a number as a string", rest: `,"spec":{"nodeSelector":{},"mtu":"9001"}`, code: 422},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := tryNodeENI(t, c, nodeENI(tt.rest))
			spec, _ := a.Object["spec"].(map[string]any)
			if diff := cmp.Diff(tt.spec, spec); a.Code != tt.code || diff != "" {
				t.Errorf("code %d (%s), want %d; spec (-want +got):\n%s", a.Code, a.Message, tt.code, diff)
			}
		})
	}
}

func TestEitherCRDIsInstalledLast(t *testing.T) {
	c := cluster.Start(t)
	install(t, c, public())
	full := nodeENI(`,"spec":{"nodeSelector":{"ng":"a"},"subnetIDs":["subnet-0a1b2c3d"],"mtu":-1,"dpdkPCIAddress":"07.0","enableDPDK":true}`)
	if _, err := c.NodeENIs().Create(t.Context(), parse(t, full), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.PatchNodeENI(t, "tried", parse(t, `{"status":{"attachments":[{"nodeID":"node-1","eniID":"eni-0a1b2c3d","dpdkBound":true,"mtu":9001}]}}`).Object, "status")
	before := content(t, c)
	for i, next := range []installation{ours(t), public(), ours(t)} {
		install(t, c, next)
		if diff := cmp.Diff(before, content(t, c)); diff != "" {
			t.Errorf("after %s was installed (-before +after):\n%s", next.name, diff)
		}
		c.PatchNodeENI(t, "tried", map[string]any{"spec": map[string]any{"description": "round " + strconv.Itoa(i)}})
		c.PatchNodeENI(t, "tried", map[string]any{"status": map[string]any{"unknown": true}}, "status")
		before["spec"].(map[string]any)["description"] = "round " + strconv.Itoa(i) //nolint:errcheck,forcetypeassert // it was made with a spec
		if diff := cmp.Diff(before, content(t, c)); diff != "" {
			t.Errorf("written under %s (-want +got):\n%s", next.name, diff)
		}
	}
}

func content(t *testing.T, c *cluster.Cluster) map[string]any {
	t.Helper()
	o, err := c.NodeENIs().Get(t.Context(), "tried", metav1.GetOptions{})
	cluster.Must(t, err)
	return map[string]any{"spec": o.Object["spec"], "status": o.Object["status"]}
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	cluster.Must(t, json.Unmarshal([]byte(text), &o.Object))
	return o
}
