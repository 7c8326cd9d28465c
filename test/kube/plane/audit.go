package plane

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// auditPolicy records user, request and status, without bodies: when a watch begins, and when a request ends.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// Stages of a request in the audit log. A watch has both, any other the second.
const (
	StageStarted  = "ResponseStarted"
	StageComplete = "ResponseComplete"
)

// Request is one line of the API server's audit log (audit.k8s.io/v1 Event).
type Request struct {
	User        string
	Verb        string // as RBAC has it: get, list, watch, create, update, patch, delete
	Group       string // "" for the core group
	Resource    string // "" for a path outside the API, such as /version
	Subresource string
	Namespace   string
	Name        string
	URI         string // with its query
	Code        int    // HTTP status; 0 where the answer had not begun
	Stage       string
	At          time.Time // when the request came
}

// String is for messages of tests.
func (r Request) String() string {
	return fmt.Sprintf("%s %s %s -> %d (%s)", r.At.Format("15:04:05.000"), r.Verb, r.URI, r.Code, r.Stage)
}

// auditEvent has the fields that are read of a line.
type auditEvent struct {
	Stage, RequestURI, Verb  string
	User                     struct{ Username string }
	ObjectRef                struct{ Resource, Subresource, Namespace, Name, APIGroup string }
	ResponseStatus           struct{ Code int }
	RequestReceivedTimestamp time.Time
}

// readAudit parses the complete lines of the log from offset on. A missing log is empty.
func readAudit(path string, offset int64) ([]Request, int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, offset, 1<<40))
	if err != nil {
		return nil, 0, fmt.Errorf("read audit log: %w", err)
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var out []Request
	for line := range bytes.Lines(data) {
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, fmt.Errorf("read audit log: %w", err)
		}
		o := e.ObjectRef
		out = append(out, Request{
			User: e.User.Username, Verb: e.Verb, Group: o.APIGroup, Resource: o.Resource, Subresource: o.Subresource, Namespace: o.Namespace,
			Name: o.Name, URI: e.RequestURI, Code: e.ResponseStatus.Code, Stage: e.Stage, At: e.RequestReceivedTimestamp,
		})
	}
	return out, offset + int64(len(data)), nil
}
