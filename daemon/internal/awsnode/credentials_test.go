package awsnode

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const expires = "2099-01-01T00:00:00Z"

// podIdentity is the agent of EKS Pod Identity. It expects the token from the pod's file.
func podIdentity(t *testing.T, token, key string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization"); got != "GET /v1/credentials "+token {
			t.Errorf("Pod Identity: asked %q", got)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":"secret","Token":"session","Expiration":%q}`, key, expires)
	}))
	t.Cleanup(s.Close)
	return s
}

// sts exchanges a ServiceAccount's token for a role.
func sts(t *testing.T, role, token, key string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("Action") != "AssumeRoleWithWebIdentity" || r.PostFormValue("RoleArn") != role || r.PostFormValue("WebIdentityToken") != token {
			t.Errorf("STS: asked %v", r.PostForm)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, key, expires)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestCredentials: credentials come from the pod's environment, as EKS sets it, or the instance's role;
// the region comes from the environment, else from the instance.
func TestCredentials(t *testing.T) {
	const key, role = "AKIDOFTHEROLE", "arn:aws:iam::111122223333:role/multi-enid"
	for name, environment := range map[string]func(t *testing.T, tokenFile string) (roleKey, region string){
		"EKS Pod Identity": func(t *testing.T, tokenFile string) (string, string) {
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", podIdentity(t, "token-of-the-pod", key).URL+"/v1/credentials")
			t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", tokenFile)
			t.Setenv("AWS_REGION", "eu-west-1")
			return "", "eu-west-1"
		},
		"IRSA": func(t *testing.T, tokenFile string) (string, string) {
			t.Setenv("AWS_ENDPOINT_URL_STS", sts(t, role, "token-of-the-pod", key).URL)
			t.Setenv("AWS_ROLE_ARN", role)
			t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", tokenFile)
			return "", "eu-central-1"
		},
		"instance role": func(*testing.T, string) (string, string) { return key, "eu-central-1" },
	} {
		t.Run(name, func(t *testing.T) {
			tokenFile := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(tokenFile, []byte("token-of-the-pod"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := fakeec2.Config{Key: key, ENIs: []fakeec2.ENI{tagged(1)}}
			state := fakeimds.State{InstanceID: thisInstance, Region: "eu-central-1"}
			state.RoleKey, cfg.Region = environment(t, tokenFile)
			imds := fakeimds.Start(t, fakeimds.Config{State: state})
			region := os.Getenv("AWS_REGION")
			fakeec2.Start(t, cfg)
			t.Setenv("AWS_REGION", region)
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.URL)
			c := NewEC2(New(Config{Endpoint: imds.URL}))
			c.backOff = time.Millisecond
			if all, err := c.Describe(t.Context()); err != nil || len(all) != 1 {
				t.Errorf("%d ENIs, %v", len(all), err)
			}
		})
	}
}

// TestRegionOfIRSA: without a region in the environment, the daemon uses the STS of the instance's region. A proxy sees which one.
// A process reads the proxy's address only once, so a second process asks.
func TestRegionOfIRSA(t *testing.T) {
	imds := fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{InstanceID: thisInstance, Region: "eu-central-1"}})
	if os.Getenv("HTTPS_PROXY") != "" {
		c := NewEC2(New(Config{Endpoint: imds.URL}))
		c.backOff = time.Millisecond
		if _, err := c.Describe(t.Context()); err == nil {
			t.Error("EC2 has answered")
		}
		return
	}
	asked := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusForbidden)
	}))
	defer proxy.Close()
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("token-of-the-pod"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRegionOfIRSA$")
	cmd.Env = append(os.Environ(), "HTTPS_PROXY="+proxy.URL, "AWS_ROLE_ARN=arn:aws:iam::111122223333:role/multi-enid", "AWS_WEB_IDENTITY_TOKEN_FILE="+tokenFile,
		"AWS_REGION=", "AWS_DEFAULT_REGION=", "AWS_CONFIG_FILE="+tokenFile+".none", "AWS_SHARED_CREDENTIALS_FILE="+tokenFile+".none")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	close(asked)
	if got := <-asked; got != "CONNECT sts.eu-central-1.amazonaws.com:443" {
		t.Errorf("first asked: %q", got)
	}
}

// TestTrustPolicy: a role that does not trust the daemon is not a missing right.
func TestTrustPolicy(t *testing.T) {
	for code, kind := range map[string]vpc.EC2Kind{"AccessDenied": vpc.EC2Unauthenticated, "InvalidIdentityToken": vpc.EC2Unauthenticated} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>`+
				`<Code>%s</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>`, code)
		}))
		t.Cleanup(s.Close)
		c, calls := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}})
		tokenFile := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(tokenFile, []byte("token"), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"AWS_ENDPOINT_URL_STS": s.URL, "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/multi-enid", "AWS_WEB_IDENTITY_TOKEN_FILE": tokenFile,
			"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
		} {
			t.Setenv(name, value)
		}
		_, err := c.Describe(t.Context())
		var e *vpc.EC2Error
		if !errors.As(err, &e) || e.Kind != kind || e.Service != "STS" || e.Code != code || !strings.Contains(e.Remedy(), "trust policy") {
			t.Errorf("%s: %v, %+v", code, err, e)
		}
		if sent := calls.Calls(); sent != nil {
			t.Errorf("%s: EC2 was asked: %q", code, sent)
		}
	}
}
