package nodeeni

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

const (
	pathNodeENIs = "/apis/networking.k8s.aws/v1alpha1/nodeenis"
	pathNodes    = "/api/v1/nodes"
	pathStates   = "/apis/networking.k8s.aws/v1alpha1/eninodestates"
)

// apiServer speaks the list and watch protocol for two kinds, and fails the test on any request that a daemon must not send.
// It has faults that a real API server does not have at will; test/kube uses a real one.
type apiServer struct {
	t   *testing.T
	url string
	// streams: it can send initial events (WatchList).
	streams bool
	// entries: the daemon follows the controller's list, and must not ask for NodeENIs.
	entries bool

	mu sync.Mutex
	// news is closed and replaced when anything below changes.
	news    chan struct{}
	version int
	// objects are by path and name; history has their changes.
	objects map[string]map[string]string
	history []fakekube.Change
	// compacted is the newest version from which no watch can begin.
	compacted int
	// cut ends every earlier watch, in the middle of an event.
	cut int
	// refuse, if set, may answer a request; false if it did not.
	refuse func(w http.ResponseWriter, r *http.Request) bool
	// lists counts the lists of all forms, asked all requests.
	lists, asked int
}

func newAPIServer(t *testing.T, streams bool) *apiServer {
	s := &apiServer{
		t: t, streams: streams, news: make(chan struct{}), version: 10,
		objects: map[string]map[string]string{pathNodeENIs: {}, pathNodes: {}, pathStates: {}},
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *apiServer) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.news)
	s.news = make(chan struct{})
}

// put stores an object; %s in it takes the metadata that the server sets.
func (s *apiServer) put(path, name, object string) {
	s.do(func() {
		kind := "ADDED"
		if _, ok := s.objects[path][name]; ok {
			kind = "MODIFIED"
		}
		s.version++
		full := fmt.Sprintf(object, fmt.Sprintf(`"name":%q,"resourceVersion":"%d"`, name, s.version))
		s.objects[path][name] = full
		s.history = append(s.history, fakekube.Change{Version: s.version, Path: path, Kind: kind, Object: full})
	})
}

func (s *apiServer) remove(path, name string) {
	s.do(func() {
		s.version++
		s.history = append(s.history, fakekube.Change{Version: s.version, Path: path, Kind: "DELETED", Object: s.objects[path][name]})
		delete(s.objects[path], name)
	})
}

// forget compacts the history and cuts every watch, like a restart after a long time.
func (s *apiServer) forget() {
	s.do(func() {
		s.version++
		s.compacted, s.cut, s.history = s.version, s.cut+1, nil
	})
}

func (s *apiServer) refuseWith(code int, paths ...string) {
	s.do(func() {
		s.cut++
		s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if !slices.Contains(paths, r.URL.Path) {
				return false
			}
			fakekube.Refuse(w, code)
			return true
		}
	})
}

func (s *apiServer) recover() { s.do(func() { s.refuse = nil }) }

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	s.asked++
	refuse, entries := s.refuse, s.entries
	s.mu.Unlock()
	s.check(r, q, entries)
	switch {
	case refuse != nil && refuse(w, r):
	case q.Get("watch") == "true":
		s.watch(w, r, q)
	default:
		s.list(w, r, q)
	}
}

func (s *apiServer) check(r *http.Request, q url.Values, entries bool) {
	known := []string{"watch", "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "allowWatchBookmarks", "timeoutSeconds", "timeout", "limit",
		"continue", "fieldSelector"}
	for k := range q {
		if !slices.Contains(known, k) {
			s.t.Errorf("%s %s: parameter %q", r.Method, r.URL, k)
		}
	}
	own := q.Get("fieldSelector") == "metadata.name=node-a"
	if r.Method != http.MethodGet || r.URL.Path != pathNodeENIs && (r.URL.Path != pathNodes && r.URL.Path != pathStates || !own) {
		s.t.Errorf("%s %s: not to be asked for", r.Method, r.URL)
	}
	if entries == (r.URL.Path == pathNodeENIs) && r.URL.Path != pathNodes {
		s.t.Errorf("%s %s: not to be asked for", r.Method, r.URL)
	}
	anew := q.Get("watch") == "" || q.Get("sendInitialEvents") == "true"
	if q.Get("resourceVersion") == "0" || anew && q.Get("resourceVersion") != "" {
		s.t.Errorf("%s: not a quorum read", r.URL)
	}
	if !strings.HasPrefix(r.UserAgent(), "multi-enid/") {
		s.t.Errorf("%s: user agent %q", r.URL, r.UserAgent())
	}
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, q url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	names := slices.Sorted(maps.Keys(s.objects[r.URL.Path]))
	from, next := 0, ""
	if c := q.Get("continue"); c != "" {
		version, after, _ := strings.Cut(c, "/")
		if v, _ := strconv.Atoi(version); v < s.compacted {
			fakekube.Refuse(w, http.StatusGone)
			return
		}
		from, _ = slices.BinarySearch(names, after)
	}
	names = names[from:]
	if limit, _ := strconv.Atoi(q.Get("limit")); limit > 0 && len(names) > limit {
		next = fmt.Sprintf("%d/%s", s.version, names[limit])
		names = names[:limit]
	}
	items := []json.RawMessage{}
	for _, n := range names {
		items = append(items, json.RawMessage(s.objects[r.URL.Path][n]))
	}
	kind, group := "NodeENIList", "networking.k8s.aws/v1alpha1"
	switch r.URL.Path {
	case pathNodes:
		kind, group = "NodeList", "v1"
	case pathStates:
		kind = "ENINodeStateList"
	}
	w.Header().Set("Content-Type", "application/json")
	err := json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": group, "kind": kind, "items": items,
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(s.version), "continue": next},
	})
	if err != nil {
		s.t.Errorf("answer %s: %v", r.URL, err)
	}
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, q url.Values) {
	s.mu.Lock()
	began := s.cut
	seen, _ := strconv.Atoi(q.Get("resourceVersion"))
	pending := []string{}
	switch {
	case q.Get("sendInitialEvents") == "true" && !s.streams:
		s.mu.Unlock()
		fakekube.Refuse(w, http.StatusUnprocessableEntity)
		return
	case q.Get("sendInitialEvents") == "true":
		s.lists++
		for _, n := range slices.Sorted(maps.Keys(s.objects[r.URL.Path])) {
			pending = append(pending, fakekube.Event("ADDED", s.objects[r.URL.Path][n]))
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
	version, kind := "networking.k8s.aws/v1alpha1", "NodeENI"
	switch path {
	case pathNodes:
		version, kind = "v1", "Node"
	case pathStates:
		kind = "ENINodeState"
	}
	return fakekube.Bookmark(version, kind, s.version, initial)
}
