package fakekube

import (
	"fmt"
	"net/http"
)

// Change is one change of an object, with its text.
type Change struct {
	Version            int
	Path, Kind, Object string
}

// Expired is the event of a watch that begins before the history does.
var Expired = Event("ERROR", `{"apiVersion":"v1","kind":"Status","status":"Failure","code":410,"reason":"Expired"}`)

// Bookmark is one with a version; the last of the events that stand in for a list has initial.
func Bookmark(apiVersion, kind string, version int, initial bool) string {
	annotations := ""
	if initial {
		annotations = `,"annotations":{"k8s.io/initial-events-end":"true"}`
	}
	return Event("BOOKMARK", fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"%d"%s}}`, apiVersion, kind, version, annotations))
}

// Watch answers a watch of the request's path: first with the pending events, then with each change after the version seen. History returns all
// changes, the present version, a channel that is closed by the next change, and whether the watch ends, which it does in the middle of an event.
// Each event comes in two parts.
func Watch(w http.ResponseWriter, r *http.Request, pending []string, seen int, history func() (all []Change, version int, news <-chan struct{}, cut bool)) {
	flush := w.(http.Flusher).Flush //nolint:errcheck,forcetypeassert // httptest's can
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush()
	for {
		for _, e := range pending {
			for _, part := range []string{e[:len(e)/2], e[len(e)/2:] + "\n"} {
				fmt.Fprint(w, part)
				flush()
			}
		}
		pending = nil
		all, version, news, cut := history()
		for _, c := range all {
			if c.Version > seen && c.Path == r.URL.Path {
				pending = append(pending, Event(c.Kind, c.Object))
			}
		}
		if seen = version; cut {
			fmt.Fprint(w, `{"type":"DELETED","object":{"metadata":{"name":"`)
			flush()
			panic(http.ErrAbortHandler)
		}
		if pending != nil {
			continue
		}
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}
