package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorization "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// answers is an API server that knows these requests only, by method and URI
// without the time limit. A value that begins with a number is an error's status.
type answers map[string]string

func connected(t *testing.T, known answers) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if query.Get("timeout") != requestTimeout.String() {
			t.Errorf("request %s is not bounded", r.URL)
		}
		query.Del("timeout")
		request := strings.TrimSuffix(r.Method+" "+r.URL.Path+"?"+query.Encode(), "?")
		if r.Method == http.MethodPost {
			request += " " + asked(t, r.Body)
		}
		answer, ok := known[request]
		if !ok {
			t.Errorf("unknown request %s", request)
			answer = "500 unknown"
		}
		status := http.StatusOK
		if n, err := fmt.Sscanf(answer, "%d ", &status); n == 1 && err == nil {
			answer = fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"reason":%q,"code":%d}`,
				answer[4:], strings.ReplaceAll(http.StatusText(status), " ", ""), status)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	config := strings.Replace(kubeconfig, "https://127.0.0.1:1", server.URL, 1)
	c, err := Connect(Config{NodeName: "node-a", Kubeconfig: writeKubeconfig(t, config), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// asked is the question of an access review as group/resource/subresource verb
// in namespace.
func asked(t *testing.T, body io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Error(err)
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	review, ok := o.(*authorization.SelfSubjectAccessReview)
	if err != nil || !ok {
		t.Errorf("body %q: %v", data, err)
		return ""
	}
	a := review.Spec.ResourceAttributes
	return fmt.Sprintf("%s/%s/%s %s in %q", a.Group, a.Resource, a.Subresource, a.Verb, a.Namespace)
}

func TestVersion(t *testing.T) {
	for name, tt := range map[string]struct{ answer, want, err string }{
		"a server":        {`{"major":"1","gitVersion":"v1.36.3"}`, "v1.36.3", ""},
		"not Kubernetes":  {`hello`, "", `"hello"`},
		"something else":  {`{}`, "", "gitVersion"},
		"an old token":    {"401 Unauthorized", "", "nauthorized"},
		"nobody may read": {"403 forbidden", "", "forbidden"},
	} {
		got, err := connected(t, answers{"GET /version": tt.answer}).Version(t.Context())
		if got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v; want %q, %q", name, got, err, tt.want, tt.err)
		}
	}
}

func TestResources(t *testing.T) {
	const uri = "GET /apis/networking.k8s.aws/v1alpha1"
	for name, tt := range map[string]struct {
		answer string
		want   []string
		err    bool
	}{
		"both":    {`{"kind":"APIResourceList","resources":[{"name":"nodeenis"},{"name":"nodeenis/status"},{"name":"eninodestates"}]}`, []string{"nodeenis", "nodeenis/status", "eninodestates"}, false},
		"no CRD":  {"404 not found", nil, false},
		"failing": {"500 etcd is gone", nil, true},
		"garbled": {`{"resources":7}`, nil, true},
	} {
		got, err := connected(t, answers{uri: tt.answer}).Resources(t.Context())
		if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.err {
			t.Errorf("%s: error %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestAllowed(t *testing.T) {
	const uri = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews "
	answer := func(allowed bool) string {
		o := authorization.SelfSubjectAccessReview{Status: authorization.SubjectAccessReviewStatus{Allowed: allowed}}
		o.Kind, o.APIVersion = "SelfSubjectAccessReview", "authorization.k8s.io/v1"
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	c := connected(t, answers{
		uri + `networking.k8s.aws/eninodestates/status patch in ""`: answer(true),
		uri + `/pods/ delete in "kube-system"`:                      answer(false),
		uri + `/nodes/ get in ""`:                                   "503 later",
	})
	if ok, err := c.Allowed(t.Context(), "patch", "networking.k8s.aws", "eninodestates/status", ""); err != nil || !ok {
		t.Errorf("patch eninodestates/status: %v, %v; want true", ok, err)
	}
	if ok, err := c.Allowed(t.Context(), "delete", "", "pods", "kube-system"); err != nil || ok {
		t.Errorf("delete pods: %v, %v; want false", ok, err)
	}
	if ok, err := c.Allowed(t.Context(), "get", "", "nodes", ""); err == nil || ok {
		t.Errorf("get nodes: %v, %v; want an error", ok, err)
	}
}

func TestDrivers(t *testing.T) {
	const (
		nodeURI = "GET /api/v1/nodes/node-a"
		listURI = "GET /apis/networking.k8s.aws/v1alpha1/nodeenis?limit=10"
		node    = `{"kind":"Node","apiVersion":"v1","metadata":{"name":"node-a","labels":{"ng":"multi-eni"}}}`
	)
	item := func(name, spec string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"nodeSelector":{"ng":"multi-eni"},%s}}`, name, spec)
	}
	page := func(next string, items ...string) string {
		return fmt.Sprintf(`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"7","continue":%q},"items":[%s]}`, next, strings.Join(items, ","))
	}
	c := connected(t, answers{
		nodeURI: node,
		listURI: page("p2", item("a", `"enableDPDK":true`), item("kernel", `"deviceIndex":1`), item("b", `"enableDPDK":true,"dpdkDriver":"uio_pci_generic"`)),
		"GET /apis/networking.k8s.aws/v1alpha1/nodeenis?continue=p2&limit=500": page("", item("c", `"enableDPDK":true`),
			`{"metadata":{"name":"elsewhere"},"spec":{"nodeSelector":{"ng":"other"},"enableDPDK":true}}`,
			`{"metadata":{"name":"going","deletionTimestamp":"2026-01-02T03:04:05Z"},"spec":{"nodeSelector":{},"enableDPDK":true}}`),
	})
	got, err := c.Drivers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"vfio-pci": {"a", "c"}, "uio_pci_generic": {"b"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drivers (-want +got):\n%s", diff)
	}
	for name, known := range map[string]answers{
		"no permission for nodes":    {nodeURI: "403 forbidden"},
		"no permission for NodeENIs": {nodeURI: node, listURI: "403 forbidden"},
		"no CRD":                     {nodeURI: node, listURI: "404 not found"},
		"garbled":                    {nodeURI: node, listURI: "[]"},
	} {
		if got, err := connected(t, known).Drivers(t.Context()); err == nil {
			t.Errorf("%s: %v; want an error", name, got)
		}
	}
}

func TestNodeExists(t *testing.T) {
	for answer, want := range map[string]bool{
		`{"kind":"Node","apiVersion":"v1","metadata":{"name":"node-a"}}`: true,
		"404 not found": false,
	} {
		if got, err := connected(t, answers{"GET /api/v1/nodes/node-a": answer}).NodeExists(t.Context()); err != nil || got != want {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	if got, err := connected(t, answers{"GET /api/v1/nodes/node-a": "500 etcd is gone"}).NodeExists(t.Context()); err == nil || got {
		t.Errorf("%v, %v; want an error", got, err)
	}
}
