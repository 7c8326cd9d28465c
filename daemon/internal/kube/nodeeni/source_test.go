package nodeeni

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

const (
	anyNode = `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"uid":"1",%s},"spec":{}}`
	ngX     = `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"uid":"1",%s},"spec":{"nodeSelector":{"ng":"x"}}}`
	broken  = `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"uid":"1",%s},"spec":{"mtu":"big"}}`
	nodeX   = `{"apiVersion":"v1","kind":"Node","metadata":{"uid":"n1","labels":{"ng":"x"},%s},"status":{"allocatable":{"intel.com/a":"1"}}}`
	nodeY   = `{"apiVersion":"v1","kind":"Node","metadata":{"uid":"n1","labels":{"ng":"y"},%s},"status":{"allocatable":{"intel.com/a":"1"}}}`
	nodeX2  = `{"apiVersion":"v1","kind":"Node","metadata":{"uid":"n2","labels":{"ng":"x"},%s},"status":{"allocatable":{"intel.com/a":"2"}}}`
)

type running struct {
	*Source
	t              *testing.T
	wakes, nodeHas atomic.Int64
}

func run(t *testing.T, s *apiServer) *running {
	t.Helper()
	return runWith(t, s, Options{Lookup: inventory.LookupNone, Now: time.Now})
}

func (r *running) says() string {
	snap, err := r.List()
	if err != nil {
		return "unknown"
	}
	var names []string
	for _, o := range snap.Objects {
		names = append(names, o.Name)
	}
	out := strings.Join(names, " ")
	if !snap.Complete {
		out += " and more"
	}
	for _, p := range snap.Problems {
		out += " " + string(p.Reason) + "=" + p.NodeENI
	}
	return out
}

func (r *running) until(what string, cond func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			r.t.Fatalf("still waiting for %s: List says %q, API %+v", what, r.says(), r.API())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *running) untilSays(want string) {
	r.t.Helper()
	r.until(fmt.Sprintf("List to say %q", want), func() bool { return r.says() == want })
}

func (r *running) untilReason(want string) {
	r.t.Helper()
	r.until("reason "+want, func() bool { return string(r.API().Reason) == want && r.API().Reachable == (want == "") })
}

// eachKind runs a test against servers with and without initial events.
func eachKind(t *testing.T, f func(t *testing.T, s *apiServer)) {
	for _, streams := range []bool{true, false} {
		t.Run(fmt.Sprintf("streams=%t", streams), func(t *testing.T) {
			t.Parallel()
			f(t, newAPIServer(t, streams))
		})
	}
}

func TestSourceFollows(t *testing.T) {
	eachKind(t, func(t *testing.T, s *apiServer) {
		var all []string
		for i := range 2*firstPage + 1 {
			name := fmt.Sprintf("n%03d", i)
			s.put(pathNodeENIs, name, anyNode)
			all = append(all, name)
		}
		s.put(pathNodes, "node-a", nodeY)
		r := run(t, s)
		r.untilSays(strings.Join(all, " "))
		r.untilReason("")
		if r.API().LastSync.IsZero() || r.API().Since.IsZero() {
			t.Errorf("state has no times: %+v", r.API())
		}
		for _, name := range all[1:] {
			s.remove(pathNodeENIs, name)
		}
		s.put(pathNodeENIs, "x", ngX)
		r.untilSays("n000")
		s.put(pathNodes, "node-a", nodeX)
		r.untilSays("n000 x")
		if ref, ok := r.Node(); !ok || ref != (client.NodeRef{Name: "node-a", UID: "n1"}) {
			t.Errorf("own Node is %+v, %t", ref, ok)
		}
		s.put(pathNodes, "node-a", nodeX2)
		r.until("the new allocatable", func() bool { return r.nodeHas.Load() == 1 })
		s.remove(pathNodes, "node-a")
		r.untilSays("unknown")
		r.untilReason("NoNode")
		if _, ok := r.Node(); ok {
			t.Error("a Node that is gone is still there")
		}
		s.put(pathNodes, "node-a", nodeX)
		r.untilSays("n000 x")
		r.untilReason("")
		s.mu.Lock()
		defer s.mu.Unlock()
		if want := map[bool]int{true: 2, false: 3}[s.streams]; s.lists != want {
			t.Errorf("%d lists, want %d: those of the start and none after", s.lists, want)
		}
	})
}

func TestSourceNeverTakesAFaultForARemoval(t *testing.T) {
	for code, reason := range map[int]string{
		401: "Unauthorized", 403: "Forbidden", 404: "NoCRD", 500: "Unreachable", 503: "Unreachable",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			eachKind(t, func(t *testing.T, s *apiServer) {
				s.put(pathNodes, "node-a", nodeX)
				s.put(pathNodeENIs, "a", ngX)
				s.put(pathNodeENIs, "b", ngX)
				s.refuseWith(code, pathNodeENIs)
				r := run(t, s)
				r.untilReason(reason)
				if got := r.says(); got != "unknown" {
					t.Errorf("before anything was read, List says %q", got)
				}
				s.recover()
				r.untilSays("a b")
				r.untilReason("")
				r.until("news of the first recovery", func() bool { return r.nodeHas.Load() == 1 })

				s.refuseWith(code, pathNodeENIs)
				r.untilReason(reason)
				s.remove(pathNodeENIs, "a")
				wakes := r.wakes.Load()
				if got := r.says(); got != "a b" {
					t.Errorf("during the outage, List says %q", got)
				}
				s.recover()
				r.untilSays("b")
				r.until("news of the second recovery", func() bool { return r.nodeHas.Load() == 2 })
				if n := r.wakes.Load() - wakes; n != 1 {
					t.Errorf("the outage woke %d times, want once, at its end", n)
				}
			})
		})
	}
}

func TestSourceTellsTheNodesFaults(t *testing.T) {
	for code, reason := range map[int]string{401: "Unauthorized", 403: "Forbidden", 404: "Unreachable", 503: "Unreachable"} {
		eachKind(t, func(t *testing.T, s *apiServer) {
			s.put(pathNodes, "node-a", nodeX)
			s.put(pathNodeENIs, "a", ngX)
			s.refuseWith(code, pathNodes)
			r := run(t, s)
			r.untilReason(reason)
			if got := r.says(); got != "unknown" {
				t.Errorf("without the own Node, List says %q", got)
			}
			s.recover()
			r.untilSays("a")
			r.untilReason("")
		})
	}
}

func TestSourceReadsAnewWhatWasForgotten(t *testing.T) {
	eachKind(t, func(t *testing.T, s *apiServer) {
		s.put(pathNodes, "node-a", nodeX)
		for _, n := range []string{"a", "b", "c"} {
			s.put(pathNodeENIs, n, ngX)
		}
		r := run(t, s)
		r.untilSays("a b c")
		r.untilReason("")
		s.do(func() { // unseen: the watches end and their version is gone at once
			delete(s.objects[pathNodeENIs], "b")
			s.version += 5
			s.compacted, s.cut, s.history = s.version, s.cut+1, nil
		})
		r.untilSays("a c")
		s.put(pathNodeENIs, "d", ngX)
		r.untilSays("a c d")
		s.forget()
		s.put(pathNodeENIs, "e", ngX)
		r.untilSays("a c d e")
	})
}

func TestSourceTakesNoPartOfAList(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, false)
	s.put(pathNodes, "node-a", nodeX)
	var all []string
	for i := range 2 * firstPage {
		all = append(all, fmt.Sprintf("n%03d", i))
		s.put(pathNodeENIs, all[i], ngX)
	}
	var pages atomic.Int64
	s.do(func() {
		s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if !r.URL.Query().Has("continue") {
				return false
			}
			switch pages.Add(1) {
			case 1:
				fakekube.Refuse(w, http.StatusInternalServerError)
			case 2:
				fakekube.Refuse(w, http.StatusGone)
			case 3:
				fmt.Fprint(w, `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"3"},"items":[{"metadata":`)
			case 4:
				fmt.Fprint(w, `{}`)
			default:
				return false
			}
			return true
		}
	})
	r := run(t, s)
	r.until("every fault", func() bool {
		if got := r.says(); got != "unknown" && got != strings.Join(all, " ") {
			t.Fatalf("after %d second pages, List says %q", pages.Load(), got)
		}
		return pages.Load() >= 5
	})
	r.untilSays(strings.Join(all, " "))
}

func TestSourceBelievesNoProxy(t *testing.T) {
	for _, body := range []string{"<html>welcome</html>", "{}", "", `{"type":"DELETED","object":{"kind":"Pod","metadata":{"name":"a"}}}`} {
		eachKind(t, func(t *testing.T, s *apiServer) {
			s.put(pathNodes, "node-a", nodeX)
			s.put(pathNodeENIs, "a", ngX)
			r := run(t, s)
			r.untilSays("a")
			var answered atomic.Int64
			s.do(func() {
				s.cut++
				s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path == pathNodeENIs {
						answered.Add(1)
						fmt.Fprint(w, body)
					}
					return r.URL.Path == pathNodeENIs
				}
			})
			r.until("three such answers", func() bool {
				if got := r.says(); got != "a" {
					t.Fatalf("List says %q", got)
				}
				return answered.Load() >= 3
			})
			s.put(pathNodeENIs, "b", ngX)
			s.recover()
			r.untilSays("a b")
		})
	}
}

func TestSourceIsNotWokenByOthers(t *testing.T) {
	t.Parallel()
	const attached = `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"uid":"1",%%s},"spec":{},` +
		`"status":{"attachments":[%s{"nodeID":"node-a","eniID":"eni-1","lastUpdated":%q}]}}`
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	s.put(pathNodeENIs, "a", fmt.Sprintf(attached, "", "2025-01-01T00:00:00Z"))
	r := run(t, s)
	r.untilSays("a")
	wakes := r.wakes.Load()
	for i := range 50 {
		s.put(pathNodeENIs, "a", fmt.Sprintf(attached, fmt.Sprintf(`{"nodeID":"node-b","eniID":"eni-%d"},`, i), fmt.Sprintf("2025-01-01T00:00:%02dZ", i)))
		s.put(pathNodeENIs, "elsewhere", strings.Replace(ngX, `"x"`, fmt.Sprintf(`"z%d"`, i), 1))
	}
	s.put(pathNodeENIs, "b", ngX)
	r.untilSays("a b")
	if n := r.wakes.Load() - wakes; n != 1 {
		t.Errorf("woken %d times, want once, for the last change", n)
	}
}

func TestSourceKeepsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	s.put(pathNodeENIs, "a", anyNode)
	s.put(pathNodeENIs, "b", anyNode)
	r := run(t, s)
	r.untilSays("a b")
	s.put(pathNodeENIs, "a", broken)
	r.untilSays("a b NodeENIUnreadable=a") // as it was, and the others go on
	s.remove(pathNodeENIs, "b")
	r.untilSays("a NodeENIUnreadable=a")
	s.put(pathNodeENIs, "c", broken)
	r.untilSays("a NodeENIUnreadable=a NodeENIUnreadable=c") // never read: its meaning is unknown, and the others go on
	if snap, err := r.List(); err != nil || !slices.Equal(snap.Unread, []string{"c"}) {
		t.Errorf("unread %q, error %v", snap.Unread, err)
	}
	s.put(pathNodeENIs, "c", strings.Replace(broken, `"mtu"`, `"nodeSelector":{"ng":"z"},"mtu"`, 1))
	r.untilSays("a NodeENIUnreadable=a") // not for this node
	s.put(pathNodeENIs, "c", strings.Replace(broken, `"uid"`, `"deletionTimestamp":"2025-01-01T00:00:00Z","uid"`, 1))
	r.untilSays("a c NodeENIUnreadable=a") // being deleted: that can be read
	snap, err := r.List()
	if err != nil || snap.Objects[1].DeletionTimestamp == nil || snap.Lookup != inventory.LookupNone {
		t.Errorf("snapshot %+v, error %v", snap, err)
	}
	s.put(pathNodeENIs, "a", strings.Replace(broken, `"uid":"1"`, `"uid":"2"`, 1))
	r.untilSays("c NodeENIUnreadable=a") // another object of that name
	if snap, err := r.List(); err != nil || !slices.Equal(snap.Unread, []string{"a"}) {
		t.Errorf("unread %q, error %v", snap.Unread, err)
	}
	s.remove(pathNodeENIs, "a")
	s.put(pathNodeENIs, "c", anyNode)
	r.untilSays("c")
}

func TestSourceNoticesAnotherObjectOfTheName(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", nodeX)
	s.put(pathNodeENIs, "a", anyNode)
	r := run(t, s)
	r.untilSays("a")
	before, _ := r.List()
	wakes := r.wakes.Load()
	s.do(func() { // deleted and made again while the watch was lost
		s.objects[pathNodeENIs]["a"] = strings.Replace(s.objects[pathNodeENIs]["a"], `"uid":"1"`, `"uid":"2"`, 1)
		s.version++
		s.compacted, s.cut, s.history = s.version, s.cut+1, nil
	})
	r.until("the new object", func() bool { return r.wakes.Load() > wakes })
	after, err := r.List()
	if err != nil || before.Objects[0].UID != "1" || after.Objects[0].UID != "2" {
		t.Errorf("UIDs %q and %q, error %v", before.Objects[0].UID, after.Objects[0].UID, err)
	}
}

func TestListSaysWhy(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t, true)
	s.put(pathNodeENIs, "a", anyNode)
	r := run(t, s)
	r.untilReason("NoNode")
	_, err := r.List()
	r.until("the NodeENIs", func() bool {
		_, err = r.List()
		return errors.Is(err, errNoNode)
	})
	if want := `read Node "node-a": there is no Node object of this name; correct --node-name if the node has another`; cmp.Diff(want, err.Error()) != "" {
		t.Errorf("error %q, want %q", err, want)
	}
}
