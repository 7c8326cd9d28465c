package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

func TestFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := &file{path: path, server: fakeimds.New(fakeimds.Config{})}
	if err := f.refresh(); err == nil {
		t.Error("a missing file is no error at the start")
	}
	do := func(method, path string, header, value string) string {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, "/latest/"+path, nil)
		r.Header.Set(header, value)
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w.Body.String()
	}
	token := do(http.MethodPut, fakeimds.Token, "X-aws-ec2-metadata-token-ttl-seconds", "60")
	for _, tt := range []struct{ text, want string }{
		{`{"instanceID": "i-1", "enis": [{"mac": "02:00:00:00:00:01", "staleFor": "1h"}]}`, "i-1"},
		{`{"instanceID": "i-2"}`, "i-2"},
		{`{"instanceID": "i-`, "i-2"},
		{`{"instanceId": "i-3", "typo": 1}`, "i-2"},
		{`{"instanceID": "i-4"}`, "i-4"},
	} {
		put(tt.text)
		if got := do(http.MethodGet, "meta-data/instance-id", "X-aws-ec2-metadata-token", token); got != tt.want {
			t.Errorf("instance-id = %q after %s, want %q", got, tt.text, tt.want)
		}
	}
	put(`{"enis": [{"mac": "02:00:00:00:00:01", "staleFor": "soon"}]}`)
	if err := f.refresh(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("refresh = %v, want an error that names the file", err)
	}
}
