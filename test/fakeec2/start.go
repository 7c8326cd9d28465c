package fakeec2

import (
	"net/http/httptest"
	"testing"
)

// Start runs a Server until the test ends, and points the SDK's environment at it. An unknown request fails the test.
func Start(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.OnUnknown = func(request string) { t.Errorf("EC2: unknown: %s", request) }
	s := New(cfg)
	l := httptest.NewServer(s)
	t.Cleanup(l.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_EC2": l.URL, "AWS_REGION": "", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-EXAMPLEKEY",
		"AWS_CONFIG_FILE": t.TempDir() + "/none", "AWS_SHARED_CREDENTIALS_FILE": t.TempDir() + "/none",
	} {
		t.Setenv(name, value)
	}
	return s
}
