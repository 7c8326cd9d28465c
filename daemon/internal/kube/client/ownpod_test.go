package client

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// TestReleaseOwnPod sends one request without grace, for the pod of this UID only. A missing pod is a success.
func TestReleaseOwnPod(t *testing.T) {
	own := OwnPod{Namespace: "kube-system", Name: "multi-enid-x", UID: "u1"}
	for name, tt := range map[string]struct {
		code   int
		failed bool
	}{
		"deleted":             {http.StatusOK, false},
		"has gone":            {http.StatusNotFound, false},
		"the name is another": {http.StatusConflict, false},
		"denied":              {http.StatusForbidden, true},
		"the server fails":    {http.StatusInternalServerError, true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Method+" "+r.URL.Path)
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				var got metav1.DeleteOptions
				if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &got); err != nil {
					t.Error(err)
				}
				got.TypeMeta = metav1.TypeMeta{}
				now, uid := int64(0), types.UID("u1")
				if diff := cmp.Diff(metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}}, got); diff != "" {
					t.Errorf("options (-want +got):\n%s", diff)
				}
				fakekube.Refuse(w, tt.code)
			}))
			defer server.Close()
			c, err := New(&rest.Config{Host: server.URL, QPS: -1}, "node-a")
			if err != nil {
				t.Fatal(err)
			}
			err = c.ReleaseOwnPod(t.Context(), own)
			if failed := err != nil; failed != tt.failed || failed && !strings.Contains(err.Error(), own.String()) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff([]string{"DELETE /api/v1/namespaces/kube-system/pods/multi-enid-x"}, asked); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}
