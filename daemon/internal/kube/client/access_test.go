package client

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorization "k8s.io/api/authorization/v1"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// answers are the API server's, by request.
type answers map[string]string

func connected(t *testing.T, known answers) *Client {
	t.Helper()
	c, err := Connect(Config{NodeName: "node-a", Kubeconfig: fakekube.Kubeconfig(t, fakekube.Answers(t, known, requestTimeout)), Log: fakekube.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return c
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
		"both": {`{"kind":"APIResourceList","resources":[{"name":"nodeenis"},{"name":"nodeenis/status"},{"name":"eninodestates"}]}`,
			[]string{"nodeenis", "nodeenis/status", "eninodestates"}, false},
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
