package kube_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

func (w *neighbourhood) client() *client.Client {
	config := &rest.Config{Host: "http://api", QPS: -1, Transport: apiTransport{w}}
	c, err := client.New(config, "node-a")
	w.must(err)
	c.Core = fakekube.Core(w.t, config)
	return c
}

type apiTransport struct{ w *neighbourhood }

func (a apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	down := false
	var watch io.ReadCloser
	a.w.do(func() {
		if down = a.w.down; down {
			return
		}
		if q := r.URL.Query(); q.Get("watch") == "true" && q.Get("sendInitialEvents") == "" {
			a.w.requests++
			body := &watchBody{done: r.Context().Done(), cut: a.w.cut}
			if from, _ := strconv.Atoi(q.Get("resourceVersion")); from < a.w.stateDeleted { // it was there then
				body.pending = []byte(fakekube.Event("DELETED", `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata",`+
					`"metadata":{"name":"node-a","resourceVersion":"`+strconv.Itoa(a.w.stateDeleted)+`"}}`) + "\n")
			}
			watch = body
			return
		}
		a.w.serve(answer, r)
	})
	if watch != nil {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: watch, Request: r}, nil
	}
	if down {
		return nil, fmt.Errorf("connection refused")
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return answer.Result(), nil
}

// watchBody is a watch with at most one event; it blocks until cut.
type watchBody struct {
	pending   []byte
	done, cut <-chan struct{}
}

func (b *watchBody) Read(p []byte) (int, error) {
	if len(b.pending) > 0 {
		n := copy(p, b.pending)
		b.pending = b.pending[n:]
		return n, nil
	}
	select {
	case <-b.done:
	case <-b.cut:
	}
	return 0, io.EOF
}

func (b *watchBody) Close() error { return nil }

func (w *neighbourhood) cutWatches() {
	close(w.cut)
	w.cut = make(chan struct{})
}

func (w *neighbourhood) serve(answer http.ResponseWriter, r *http.Request) {
	w.requests++
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			w.wrong("read the body of %s: %v", r.URL, err)
		}
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case strings.HasPrefix(r.URL.Path, statesPath):
		w.serveState(answer, r, body)
	case len(parts) >= 5 && parts[4] == "events":
		w.serveEvent(answer, parts[3], body)
	case len(parts) == 5 && parts[4] == "pods" && r.Method == http.MethodGet:
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
		if w.plugin.pod != nil && parts[3] == "kube-system" {
			list.Items = append(list.Items, w.plugin.object())
		}
		fakekube.Respond(answer, http.StatusOK, list)
	case len(parts) == 6 && parts[4] == "pods" && r.Method == http.MethodDelete:
		w.serveDelete(answer, parts[5], body)
	default:
		w.wrong("request %s %s is not known", r.Method, r.URL)
		fakekube.Refuse(answer, http.StatusTeapot)
	}
}

func (w *neighbourhood) serveDelete(answer http.ResponseWriter, name string, body []byte) {
	var options metav1.DeleteOptions
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &options); err != nil {
		w.wrong("body of DELETE %s: %v", name, err)
	}
	p := w.plugin.pod
	switch {
	case p == nil || p.uid != name:
		fakekube.Refuse(answer, http.StatusNotFound)
	case options.Preconditions == nil || *options.Preconditions.UID != types.UID(p.uid):
		fakekube.Refuse(answer, http.StatusConflict)
	default:
		w.note("the daemon deletes %s", name)
		w.deleted(p)
		o := w.plugin.object()
		w.plugin.remove()
		fakekube.Respond(answer, http.StatusOK, o)
	}
}

func (w *neighbourhood) serveEvent(answer http.ResponseWriter, namespace string, body []byte) {
	var e corev1.Event
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &e); err != nil {
		w.wrong("Event %q: %v", body, err)
	}
	if w.refused || w.terminates(namespace) {
		fakekube.Refuse(answer, http.StatusForbidden)
		return
	}
	w.events = append(w.events, e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+" "+e.Reason)
	fakekube.Respond(answer, http.StatusCreated, e)
}

func (w *neighbourhood) terminates(namespace string) bool {
	n := slices.Index([]string{"", "ns1", "ns2"}, namespace)
	return n > 0 && w.terminating[n]
}

func (w *neighbourhood) serveState(answer http.ResponseWriter, r *http.Request, body []byte) {
	switch {
	case r.URL.Query().Get("watch") == "true": // with sendInitialEvents, which not every server can
		fakekube.Refuse(answer, http.StatusUnprocessableEntity)
		return
	case r.Method == http.MethodGet && r.URL.Path == statesPath:
		list := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"},
			ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(w.version)}}
		if w.state != nil {
			list.Items = append(list.Items, metav1.PartialObjectMetadata{ObjectMeta: w.state.ObjectMeta})
		}
		fakekube.Respond(answer, http.StatusOK, list)
		return
	case r.Method == http.MethodGet && w.state == nil:
		fakekube.Refuse(answer, http.StatusNotFound)
		return
	case r.Method == http.MethodPost && w.state != nil:
		fakekube.Refuse(answer, http.StatusConflict)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodPost && w.state == nil:
		fakekube.Refuse(answer, http.StatusNotFound)
		return
	case r.Method != http.MethodGet:
		var o v1alpha1.ENINodeState
		w.must(json.Unmarshal(body, &o))
		if w.state != nil {
			o.ObjectMeta = w.state.ObjectMeta
		}
		w.state = &o
	}
	fakekube.Respond(answer, http.StatusOK, w.state)
}
