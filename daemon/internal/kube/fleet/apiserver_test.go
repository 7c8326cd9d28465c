package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

const (
	pathNodeENIs = "/apis/networking.k8s.aws/v1alpha1/nodeenis"
	pathStates   = "/apis/networking.k8s.aws/v1alpha1/eninodestates"
	pathNodes    = "/api/v1/nodes"
	pathLeases   = "/apis/coordination.k8s.io/v1/"
)

// kinds are the kinds of the paths, with their group's version.
var kinds = map[string][2]string{
	pathNodeENIs: {v1alpha1.APIVersion, "NodeENI"}, pathStates: {v1alpha1.APIVersion, "ENINodeState"}, pathNodes: {"v1", "Node"},
}

// object is an object as JSON has it.
type object = map[string]any

// apiServer has the kinds that a Fleet follows, Leases and Events, and does to them what an API server does: resource versions, generations,
// preconditions, subresources, watches. It fails the test on a request for which the controller has no permission.
type apiServer struct {
	t *testing.T
	// streams: it can send initial events (WatchList).
	streams bool

	mu sync.Mutex
	// news is closed and replaced when anything below changes.
	news    chan struct{}
	version int
	// objects are by path and name; history has their changes.
	objects map[string]map[string]object
	history []fakekube.Change
	// compacted is the newest version from which no watch can begin; cut ends every earlier watch.
	compacted, cut int
	// refuse may answer a request; false if it did not.
	refuse func(w http.ResponseWriter, r *http.Request) bool
	leases map[string]*coordinationv1.Lease
	events []string
	// calls are the requests that change something.
	calls []string
}

func newAPIServer(t *testing.T, streams bool) *apiServer {
	return &apiServer{
		t: t, streams: streams, news: make(chan struct{}), version: 10,
		objects: map[string]map[string]object{pathNodeENIs: {}, pathNodes: {}, pathStates: {}}, leases: map[string]*coordinationv1.Lease{},
	}
}

// serve returns a client's configuration, by the network: watches need it.
func (s *apiServer) serve() *rest.Config {
	server := httptest.NewServer(s)
	s.t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// direct returns a client's configuration without network, for synctest.
func (s *apiServer) direct() *rest.Config {
	return &rest.Config{Host: "http://api.example", Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		w := httptest.NewRecorder()
		if r.Body == nil {
			r.Body = http.NoBody
		}
		s.ServeHTTP(w, r)
		return w.Result(), nil
	})}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (s *apiServer) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wake()
}

func (s *apiServer) wake() {
	close(s.news)
	s.news = make(chan struct{})
}

// put stores an object, given as JSON without kind and name.
func (s *apiServer) put(path, name, text string) {
	s.t.Helper()
	o := object{}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		s.t.Fatal(err)
	}
	s.do(func() { s.store(path, name, o) })
}

// store gives an object the metadata that the server sets. Hold mu.
func (s *apiServer) store(path, name string, o object) object {
	before, kind := s.objects[path][name], "ADDED"
	given, _ := o["metadata"].(map[string]any)
	meta := merge(given, nil)
	s.version++
	meta["name"], meta["resourceVersion"] = name, strconv.Itoa(s.version)
	meta["generation"], meta["uid"] = float64(1), fmt.Sprintf("uid-%s-%d", name, s.version)
	if before != nil {
		kind = "MODIFIED"
		old := before["metadata"].(map[string]any) //nolint:errcheck,forcetypeassert // set above
		meta["uid"], meta["generation"] = old["uid"], old["generation"]
		if fmt.Sprint(before["spec"]) != fmt.Sprint(o["spec"]) {
			meta["generation"] = old["generation"].(float64) + 1 //nolint:errcheck,forcetypeassert // set above
		}
	}
	o["metadata"], o["apiVersion"], o["kind"] = meta, kinds[path][0], kinds[path][1]
	s.objects[path][name] = o
	s.record(kind, path, o)
	return o
}

func (s *apiServer) record(kind, path string, o object) {
	encoded, err := json.Marshal(o)
	if err != nil {
		s.t.Error(err)
	}
	s.history = append(s.history, fakekube.Change{Version: s.version, Path: path, Kind: kind, Object: string(encoded)})
}

func (s *apiServer) remove(path, name string) {
	s.do(func() {
		s.version++
		o := s.objects[path][name]
		delete(s.objects[path], name)
		s.record("DELETED", path, merge(o, object{"metadata": object{"resourceVersion": strconv.Itoa(s.version)}}))
	})
}

// forget compacts the history and cuts every watch, like a restart after a long time.
func (s *apiServer) forget() {
	s.do(func() {
		s.version++
		s.compacted, s.cut, s.history = s.version, s.cut+1, nil
	})
}

// stored returns an object as v1alpha1 has it.
func stored[T any](s *apiServer, path, name string) (out T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	encoded, err := json.Marshal(s.objects[path][name])
	if err == nil {
		err = json.Unmarshal(encoded, &out)
	}
	if err != nil {
		s.t.Error(err)
	}
	return out
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	refuse := s.refuse
	if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases") {
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	}
	s.mu.Unlock()
	path, name, sub := r.URL.Path, "", ""
	for known := range kinds {
		if rest, ok := strings.CutPrefix(r.URL.Path, known+"/"); ok {
			path = known
			name, sub, _ = strings.Cut(rest, "/")
		}
	}
	switch _, known := kinds[path]; {
	case refuse != nil && refuse(w, r):
	case strings.HasPrefix(r.URL.Path, pathLeases):
		s.lease(w, r)
	case r.URL.Path == "/api/v1/namespaces/default/events":
		s.event(w, r)
	case r.URL.Path == "/api/v1/namespaces/kube-system":
		fakekube.Respond(w, http.StatusOK, object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "kube-system", "uid": "uid-cluster"}})
	case !known:
		s.t.Errorf("%s %s: not permitted", r.Method, r.URL)
		fakekube.Refuse(w, http.StatusForbidden)
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") == "true":
		s.watch(w, r)
	case r.Method == http.MethodGet && name == "":
		s.list(w, r)
	default:
		s.single(w, r, path, name, sub)
	}
}

// single serves a request for one object.
func (s *apiServer) single(w http.ResponseWriter, r *http.Request, path, name, sub string) {
	var body object
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			s.t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
	}
	meta, _ := body["metadata"].(map[string]any)
	if r.Method == http.MethodPost {
		name, _ = meta["name"].(string)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	before := s.objects[path][name]
	switch {
	case before == nil && r.Method != http.MethodPost:
		fakekube.Refuse(w, http.StatusNotFound)
	case r.Method == http.MethodGet && path == pathStates:
		fakekube.Respond(w, http.StatusOK, before)
	case r.Method == http.MethodPost && path == pathStates && before != nil:
		fakekube.Respond(w, http.StatusConflict, metav1.Status{Status: "Failure", Code: 409, Reason: metav1.StatusReasonAlreadyExists})
	case r.Method == http.MethodPost && path == pathStates:
		delete(body, "status")
		fakekube.Respond(w, http.StatusCreated, s.store(path, name, body))
	case r.Method == http.MethodPatch && path != pathNodes && (sub == "" || path == pathNodeENIs):
		s.patch(w, r, path, name, sub, body)
	case r.Method == http.MethodDelete && path == pathStates:
		preconditions, _ := body["preconditions"].(map[string]any)
		if preconditions["uid"] != before["metadata"].(map[string]any)["uid"] { //nolint:errcheck,forcetypeassert // set above
			fakekube.Refuse(w, http.StatusConflict)
			return
		}
		delete(s.objects[path], name)
		s.version++
		s.record("DELETED", path, merge(before, object{"metadata": object{"resourceVersion": strconv.Itoa(s.version)}}))
		fakekube.Respond(w, http.StatusOK, metav1.Status{Status: "Success"})
	default:
		s.t.Errorf("%s %s: not permitted", r.Method, r.URL)
		fakekube.Refuse(w, http.StatusForbidden)
	}
}

// patch merges by RFC 7396 into the resource or its status. Hold mu.
func (s *apiServer) patch(w http.ResponseWriter, r *http.Request, path, name, sub string, body object) {
	before := s.objects[path][name]
	meta, _ := body["metadata"].(map[string]any)
	old := before["metadata"].(map[string]any) //nolint:errcheck,forcetypeassert // set above
	if r.Header.Get("Content-Type") != "application/merge-patch+json" || meta["resourceVersion"] == nil || meta["uid"] == nil {
		s.t.Errorf("%s %s: not a merge with resourceVersion and uid", r.Method, r.URL)
	}
	if meta["resourceVersion"] != old["resourceVersion"] || meta["uid"] != old["uid"] {
		fakekube.Refuse(w, http.StatusConflict)
		return
	}
	if sub == "status" {
		body = object{"status": body["status"]}
	} else {
		delete(body, "status")
	}
	fakekube.Respond(w, http.StatusOK, s.store(path, name, merge(before, body)))
}

func merge(into, patch object) object {
	out := maps.Clone(into)
	if out == nil {
		out = object{}
	}
	for k, v := range patch {
		inner, isObject := v.(map[string]any)
		switch before, _ := out[k].(map[string]any); {
		case v == nil:
			delete(out, k)
		case isObject:
			out[k] = merge(before, inner)
		default:
			out[k] = v
		}
	}
	return out
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("resourceVersion") != "" {
		s.t.Errorf("%s: not a quorum read", r.URL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Sorted(maps.Keys(s.objects[r.URL.Path]))
	from, _ := slices.BinarySearch(names, q.Get("continue"))
	names = names[from:]
	next := ""
	if limit, _ := strconv.Atoi(q.Get("limit")); limit > 0 && len(names) > limit {
		next, names = names[limit], names[:limit]
	}
	items := []object{}
	for _, n := range names {
		items = append(items, s.objects[r.URL.Path][n])
	}
	fakekube.Respond(w, http.StatusOK, object{
		"apiVersion": kinds[r.URL.Path][0], "kind": kinds[r.URL.Path][1] + "List", "items": items,
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(s.version), "continue": next},
	})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	began := s.cut
	seen, _ := strconv.Atoi(q.Get("resourceVersion"))
	var pending []string
	switch initial := q.Get("sendInitialEvents") == "true"; {
	case initial && !s.streams:
		s.mu.Unlock()
		fakekube.Refuse(w, http.StatusUnprocessableEntity)
		return
	case initial:
		for _, n := range slices.Sorted(maps.Keys(s.objects[r.URL.Path])) {
			encoded, _ := json.Marshal(s.objects[r.URL.Path][n]) //nolint:errchkjson // came from JSON
			pending = append(pending, fakekube.Event("ADDED", string(encoded)))
		}
		seen = s.version
		pending = append(pending, s.bookmark(r.URL.Path, true))
	case seen < s.compacted:
		pending = append(pending, fakekube.Expired)
	default:
		pending = append(pending, s.bookmark(r.URL.Path, false))
	}
	s.mu.Unlock()
	fakekube.Watch(w, r, pending, seen, func() ([]fakekube.Change, int, <-chan struct{}, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.history, s.version, s.news, s.cut != began
	})
}

func (s *apiServer) bookmark(path string, initial bool) string {
	return fakekube.Bookmark(kinds[path][0], kinds[path][1], s.version, initial)
}
