package fleet

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// lease serves Leases: get, create and update of one name in a namespace, and a list of that name in all.
func (s *apiServer) lease(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, pathLeases)
	if path == "leases" && r.URL.Query().Get("fieldSelector") == "metadata.name="+LeaseName {
		list := coordinationv1.LeaseList{TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "LeaseList"}}
		for _, namespace := range slices.Sorted(maps.Keys(s.leases)) {
			list.Items = append(list.Items, *s.leases[namespace])
		}
		fakekube.Respond(w, http.StatusOK, list)
		return
	}
	namespace, rest, _ := strings.Cut(strings.TrimPrefix(path, "namespaces/"), "/")
	before := s.leases[namespace]
	switch {
	case r.Method == http.MethodGet && rest == "leases/"+LeaseName && before == nil:
		fakekube.Refuse(w, http.StatusNotFound)
	case r.Method == http.MethodGet && rest == "leases/"+LeaseName:
		fakekube.Respond(w, http.StatusOK, before)
	case r.Method == http.MethodPost && rest == "leases" && before != nil:
		fakekube.Refuse(w, http.StatusConflict)
	case r.Method == http.MethodPost && rest == "leases", r.Method == http.MethodPut && rest == "leases/"+LeaseName && before != nil:
		data, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
		l, ok := o.(*coordinationv1.Lease)
		if err != nil || !ok || l.Name != LeaseName {
			s.t.Errorf("%s %s: %v: %s", r.Method, r.URL, err, data)
			fakekube.Refuse(w, http.StatusUnprocessableEntity)
			return
		}
		if before != nil && l.ResourceVersion != before.ResourceVersion {
			fakekube.Refuse(w, http.StatusConflict)
			return
		}
		s.version++
		l.ResourceVersion, l.Namespace = strconv.Itoa(s.version), namespace
		l.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		s.leases[namespace] = l
		fakekube.Respond(w, http.StatusOK, l)
	default:
		s.t.Errorf("%s %s: not permitted", r.Method, r.URL)
		fakekube.Refuse(w, http.StatusConflict)
	}
}

func (s *apiServer) event(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	e, ok := o.(*corev1.Event)
	if err != nil || !ok {
		s.t.Errorf("Event: %v", err)
		return
	}
	s.do(func() {
		s.events = append(s.events, e.Type+" "+e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+" "+string(e.InvolvedObject.UID)+" "+e.Reason+": "+e.Message)
	})
	fakekube.Respond(w, http.StatusCreated, o)
}

// connect returns a Fleet in the namespace own.
func connect(t *testing.T, config *rest.Config) *Fleet {
	t.Helper()
	f, err := newFleet(config, Options{Namespace: "own", Identity: "pod", Now: time.Now, Log: fakekube.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// leader makes a Fleet believe that it holds the Lease.
func leader(f *Fleet) {
	f.lease.lead(true)
	f.lease.renewed(f.options.Now().Add(time.Hour))
}
