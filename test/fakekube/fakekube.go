// Package fakekube has the parts that the tests' API servers share.
package fakekube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// ClosedServer is the server that Kubeconfig's text names; nothing listens there.
const ClosedServer = "https://127.0.0.1:1"

// Config is a kubeconfig.
const Config = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "` + ClosedServer + `"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

// Kubeconfig writes Config with another server and returns its path.
func Kubeconfig(t testing.TB, server string) string {
	t.Helper()
	return WriteKubeconfig(t, strings.Replace(Config, ClosedServer, server, 1))
}

// WriteKubeconfig writes a kubeconfig and returns its path.
func WriteKubeconfig(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Core is a client that speaks JSON, which a test can read.
func Core(t testing.TB, config *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Refuse answers with a Status of the HTTP code.
func Refuse(w http.ResponseWriter, code int) {
	reason := map[int]metav1.StatusReason{
		401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound, 409: metav1.StatusReasonConflict,
		410: metav1.StatusReasonExpired, 422: metav1.StatusReasonInvalid, 500: metav1.StatusReasonInternalError, 503: metav1.StatusReasonServiceUnavailable,
	}[code]
	Respond(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason, Message: "refused",
	})
}

// Respond answers with an object as JSON.
func Respond(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o) // the client may have gone
}

// Event is one event of a watch.
func Event(kind, object string) string { return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object) }

// Quiet is a log that nobody reads.
func Quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// Await waits up to 20 s.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// Answers is an API server that knows only these requests, by method and URI. A value that begins with a number is an error's status.
// Each request must give this timeout. It returns the server's URL.
func Answers(t testing.TB, known map[string]string, within time.Duration) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if query.Get("timeout") != within.String() {
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
	return server.URL
}

// asked is an access review's question as group/resource/subresource verb in namespace.
func asked(t testing.TB, body io.Reader) string {
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
