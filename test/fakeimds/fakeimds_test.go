package fakeimds

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	mac1 = "02:00:00:00:00:01"
	mac2 = "02:00:00:00:00:02"
	macs = "meta-data/network/interfaces/macs/"
)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func instance(t *testing.T, enis ...ENI) (*Server, *clock) {
	t.Helper()
	c := &clock{now: time.Unix(1_750_000_000, 0)}
	return New(Config{Now: c.Now, State: State{InstanceID: "i-1", ENIs: enis}}), c
}

// do answers "status body".
func do(t *testing.T, s *Server, method, path string, header ...string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/latest/"+path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if strings.HasPrefix(w.Body.String(), "<?xml") { // the service's own page
		w.Body.Reset()
	}
	return strings.TrimSpace(http.StatusText(w.Code) + " " + w.Body.String())
}

func token(t *testing.T, s *Server, ttl string) string {
	t.Helper()
	tok, ok := strings.CutPrefix(do(t, s, http.MethodPut, Token, ttlHeader, ttl), "OK ")
	if !ok {
		t.Fatal("no token")
	}
	return tok
}

func get(t *testing.T, s *Server, path string) string {
	t.Helper()
	return do(t, s, http.MethodGet, path, tokenHeader, token(t, s, "60"))
}

func TestTokens(t *testing.T) {
	s, c := instance(t)
	for _, tt := range []struct {
		name   string
		header []string
		want   string
	}{
		{"no TTL", nil, "Bad Request"},
		{"TTL of 0", []string{ttlHeader, "0"}, "Bad Request"},
		{"TTL above six hours", []string{ttlHeader, "21601"}, "Bad Request"},
		{"by way of a proxy", []string{ttlHeader, "60", "X-Forwarded-For", "10.0.0.1"}, "Forbidden"},
	} {
		if got := do(t, s, http.MethodPut, Token, tt.header...); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := do(t, s, http.MethodGet, "meta-data/instance-id"); got != "Unauthorized" {
		t.Errorf("without a token: %q", got)
	}
	if got := do(t, s, http.MethodGet, "meta-data/instance-id", tokenHeader, "token-7"); got != "Unauthorized" {
		t.Errorf("with a token of somebody else: %q", got)
	}
	tok := token(t, s, "60")
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{{0, "OK i-1"}, {59 * time.Second, "OK i-1"}, {time.Second, "Unauthorized"}} {
		c.now = c.now.Add(tt.after)
		if got := do(t, s, http.MethodGet, "meta-data/instance-id", tokenHeader, tok); got != tt.want {
			t.Errorf("after %v more: %q, want %q", tt.after, got, tt.want)
		}
	}
	tok = token(t, s, "60")
	s.RevokeTokens()
	if got := do(t, s, http.MethodGet, "meta-data/instance-id", tokenHeader, tok); got != "Unauthorized" {
		t.Errorf("with a revoked token: %q", got)
	}
	if got := s.TokensIssued(); got != 2 {
		t.Errorf("TokensIssued = %d, want 2", got)
	}
	if got := s.Unknown(); len(got) != 0 {
		t.Errorf("Unknown = %q, want none", got)
	}
}

func TestValues(t *testing.T) {
	s, _ := instance(t,
		ENI{ID: "eni-2", MAC: mac2, Primary: true, SubnetID: "subnet-2", SubnetIPv4CIDR: "10.0.0.0/24", IPv4s: []string{"10.0.0.5", "10.0.0.6"}},
		ENI{ID: "eni-1", MAC: mac1, DeviceIndex: 3, NetworkCard: 1, IPv6s: []string{"2001:db8::1"}, SubnetIPv6CIDR: []string{"2001:db8::/64"},
			IPv4Prefixes: []string{"10.0.0.16/28"}, IPv6Prefixes: []string{"2001:db8::/80"}},
	)
	for path, want := range map[string]string{
		"meta-data/mac":                          "OK " + mac2,
		strings.TrimSuffix(macs, "/"):            "OK " + mac1 + "/\n" + mac2 + "/",
		macs:                                     "OK " + mac1 + "/\n" + mac2 + "/",
		macs + mac2 + "/":                        "OK device-number\ninterface-id\nlocal-ipv4s\nmac\nsubnet-id\nsubnet-ipv4-cidr-block",
		macs + mac2 + "/mac":                     "OK " + mac2,
		macs + mac2 + "/device-number":           "OK 0",
		macs + mac2 + "/network-card":            "Not Found",
		macs + mac2 + "/subnet-id":               "OK subnet-2",
		macs + mac2 + "/subnet-ipv4-cidr-block":  "OK 10.0.0.0/24",
		macs + mac2 + "/local-ipv4s":             "OK 10.0.0.5\n10.0.0.6",
		macs + mac2 + "/ipv6s":                   "Not Found",
		macs + mac1 + "/interface-id":            "OK eni-1",
		macs + mac1 + "/device-number":           "OK 3",
		macs + mac1 + "/network-card":            "OK 1",
		macs + mac1 + "/ipv6s":                   "OK 2001:db8::1",
		macs + mac1 + "/subnet-ipv6-cidr-blocks": "OK 2001:db8::/64",
		macs + mac1 + "/ipv4-prefix":             "OK 10.0.0.16/28",
		macs + mac1 + "/ipv6-prefix":             "OK 2001:db8::/80",
		macs + "02:00:00:00:00:03/mac":           "Not Found",
	} {
		if got := get(t, s, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	if got := s.Unknown(); len(got) != 0 {
		t.Errorf("Unknown = %q, want none", got)
	}
}

func TestUnknownRequestsAreReported(t *testing.T) {
	var reported []string
	s := New(Config{
		State:     State{ENIs: []ENI{{MAC: mac1}}},
		OnUnknown: func(r string) { reported = append(reported, r) },
	})
	tok := token(t, s, "60")
	requests := []struct{ method, path, want string }{
		{http.MethodDelete, "meta-data/mac", "Method Not Allowed"},
		{http.MethodGet, Token, "Method Not Allowed"},
		{http.MethodGet, "meta-data/" + "ami-id", "Not Found"},
		{http.MethodGet, macs + mac1 + "/vpc-id", "Not Found"},
		{http.MethodGet, "user-data", "Not Found"},
	}
	var want []string
	for _, r := range requests {
		if got := do(t, s, r.method, r.path, tokenHeader, tok); got != r.want {
			t.Errorf("%s %s: %q, want %q", r.method, r.path, got, r.want)
		}
		want = append(want, r.method+" /latest/"+r.path)
	}
	if diff := cmp.Diff(want, reported); diff != "" {
		t.Errorf("reported (-want +got):\n%s", diff)
	}
	if got := len(s.Unknown()); got != len(want) {
		t.Errorf("Unknown has %d entries, want %d", got, len(want))
	}
}

func TestLags(t *testing.T) {
	s, c := instance(t)
	s.Attach(ENI{
		ID: "eni-1", MAC: mac1, DeviceIndex: 2,
		AppearsAfter: Duration(time.Second), IndexAfter: Duration(3 * time.Second), StaleFor: Duration(10 * time.Second),
	})
	index := macs + mac1 + "/device-number"
	step := func(d time.Duration, listing, device string) {
		t.Helper()
		c.now = c.now.Add(d)
		if got := get(t, s, macs); got != listing {
			t.Errorf("listing = %q, want %q", got, listing)
		}
		if got := get(t, s, index); got != device {
			t.Errorf("device-number = %q, want %q", got, device)
		}
	}
	step(0, "OK", "Not Found")
	step(time.Second, "OK "+mac1+"/", "OK 0")
	step(2*time.Second, "OK "+mac1+"/", "OK 2")
	s.Detach(mac1)
	step(9*time.Second, "OK "+mac1+"/", "OK 2")
	step(time.Second, "OK", "Not Found")
}

func TestApply(t *testing.T) {
	s, c := instance(t, ENI{ID: "eni-1", MAC: mac1, DeviceIndex: 1}, ENI{ID: "eni-2", MAC: mac2, StaleFor: Duration(time.Second)})
	s.Apply(State{InstanceID: "i-2", ENIs: []ENI{{ID: "eni-1", MAC: mac1, DeviceIndex: 4, IndexAfter: Duration(time.Second)}}})
	if got := get(t, s, macs); got != "OK "+mac1+"/\n"+mac2+"/" {
		t.Errorf("listing right after = %q, want the detached one still", got)
	}
	c.now = c.now.Add(time.Second)
	for path, want := range map[string]string{
		"meta-data/instance-id":        "OK i-2",
		macs:                           "OK " + mac1 + "/",
		macs + mac1 + "/device-number": "OK 4",
	} {
		if got := get(t, s, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	s, _ := instance(t, ENI{ID: "eni-1", MAC: mac1, Primary: true})
	id := "meta-data/instance-id"

	s.Fault(id, Fault{Status: http.StatusServiceUnavailable, After: 1, Times: 2})
	for i, want := range []string{"OK i-1", "Service Unavailable", "Service Unavailable", "OK i-1"} {
		if got := get(t, s, id); got != want {
			t.Errorf("request %d: %q, want %q", i, got, want)
		}
	}
	s.Fault(id, Fault{Body: "other"})
	if got := get(t, s, id); got != "OK other" {
		t.Errorf("with a body: %q", got)
	}
	if got := get(t, s, "meta-data/mac"); got != "OK "+mac1 {
		t.Errorf("another path: %q", got)
	}
	s.Fault("", Fault{Status: http.StatusTeapot})
	if got := do(t, s, http.MethodGet, "meta-data/mac"); got != "I'm a teapot" {
		t.Errorf("with a fault for all paths: %q", got)
	}
	if got := s.Requests(id); got != 5 {
		t.Errorf("Requests(%s) = %d, want 5", id, got)
	}
}

func TestFaultsOfTheConnection(t *testing.T) {
	s := Start(t, Config{})
	client := &http.Client{}
	send := func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, s.URL+"/latest/"+Token, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(ttlHeader, "60")
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
		return err
	}
	if err := send(t.Context()); err != nil {
		t.Errorf("without a fault: %v", err)
	}
	s.Fault(Token, Fault{Drop: true})
	if err := send(t.Context()); err == nil {
		t.Error("a dropped connection gave an answer")
	}
	s.Fault(Token, Fault{Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := send(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a delayed answer: %v, want DeadlineExceeded", err)
	}
	s.Stop()
	if err := send(t.Context()); err == nil {
		t.Error("a stopped service gave an answer")
	}
}
