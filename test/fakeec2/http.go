package fakeec2

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
)

// signature matches Signature Version 4 for this service; its groups are access key and region.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([a-z0-9-]+)/ec2/aws4_request, ` +
	`SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, Signature=[0-9a-f]{64}$`)

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	form, err := url.ParseQuery(string(body))
	action := form.Get("Action")
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/" {
		s.unknown(r.Method + " " + r.URL.String())
		s.answerError(w, refuse("InvalidRequest", "The request received was invalid."))
		return
	}
	if by := signature.FindStringSubmatch(r.Header.Get("Authorization")); by == nil || s.cfg.Key != "" && by[1] != s.cfg.Key || s.cfg.Region != "" &&
		by[2] != s.cfg.Region {
		s.answerError(w, refuse("AuthFailure", "AWS was not able to validate the provided access credentials"))
		return
	}
	fault, wait := s.begin(action, form.Get("NetworkInterfaceId")+form.Get("AttachmentId"))
	if fault == Slow {
		select {
		case <-s.cfg.Slow:
			fault = ""
		case <-r.Context().Done():
			return
		}
	}
	if !pause(r.Context(), wait/2) || instead(w, fault) {
		return
	}
	if fault != "" && fault != Lose && fault != Truncate {
		s.refused(action)
		s.answerError(w, refuse(fault, "as told to"))
		return
	}
	result, err := s.call(action, params(form), fault != "")
	if !pause(r.Context(), wait/2) {
		return
	}
	if fault == Lose {
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		s.answerError(w, err)
		return
	}
	answer := `<?xml version="1.0" encoding="UTF-8"?>` + "\n<" + action + `Response xmlns="http://ec2.amazonaws.com/doc/` + version +
		`/"><requestId>59dbff89-35bd-4eac-99ed-be587EXAMPLE</requestId>` + result + "</" + action + "Response>"
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	if fault == Truncate {
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		answer = answer[:len(answer)*2/3]
	}
	fmt.Fprint(w, answer)
}

func (s *Server) refused(action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally[action].Refused++
}

func (s *Server) answerError(w http.ResponseWriter, err error) {
	e, ok := err.(*apiError) //nolint:errorlint // made by refuse
	if !ok {
		e = &apiError{http.StatusInternalServerError, "InternalError", err.Error()}
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(e.status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
		`<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>ea966190-f9aa-478e-9ede-example</RequestID></Response>`, e.code,
		text(e.message))
}

// Do answers a call without a network: a Server is the HTTPClient of the SDK's options. A lost answer is an error, as it is with a network.
func (s *Server) Do(r *http.Request) (*http.Response, error) { return s.RoundTrip(r) }

// RoundTrip is Do as an http.RoundTripper.
func (s *Server) RoundTrip(r *http.Request) (answer *http.Response, err error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	aborted := func() (aborted bool) {
		defer func() {
			if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				aborted = true
			} else if p != nil {
				panic(p)
			}
		}()
		s.ServeHTTP(w, r)
		return false
	}()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if aborted {
		return nil, errLost
	}
	answer = w.Result()
	if n, err := strconv.Atoi(w.Header().Get("Content-Length")); err == nil && n > w.Body.Len() {
		answer.ContentLength, answer.Body = int64(n), io.NopCloser(io.MultiReader(w.Body, cut{}))
	}
	answer.Request = r
	return answer, nil
}

var errLost = errors.Join(errors.New("connection lost"), io.EOF)

type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
