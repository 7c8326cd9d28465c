package awsnode

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// mockProgram is the mock that make tools builds, or else builds one.
func mockProgram(t *testing.T) string {
	t.Helper()
	if program, err := nstest.Binary("tools/ec2-metadata-mock"); err == nil {
		return program
	}
	repo, err := nstest.Repo()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "mock")
	build := exec.CommandContext(t.Context(), "go", "-C", filepath.Join(repo, "test/tools"), "build", "-buildvcs=false", "-o", program,
		"github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // as make builds it
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// awsMock starts AWS' mock of IMDS (amazon-ec2-metadata-mock), IMDSv2 only, with these values, and returns its address.
func awsMock(t *testing.T, values string) string {
	t.Helper()
	program := mockProgram(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if cerr := l.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(`{"metadata":{"values":{`+values+`}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--imdsv2", "--hostname=127.0.0.1", "--port="+port, "--config-file="+config)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck,gosec // it may have ended
		cmd.Wait()         //nolint:errcheck,gosec // it was killed
	})
	url := "http://127.0.0.1:" + port
	for begin := time.Now(); ; <-time.After(10 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close() //nolint:gosec // nothing was sent
			return url
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatal(err)
		}
	}
}

// TestAgainstAWSMock reads AWS' mock like the strict fake: token, listed keys, values, missing keys.
func TestAgainstAWSMock(t *testing.T) {
	url := awsMock(t, `"mac-local-ipv4s":"192.0.2.54\n192.0.2.55","mac-network-interface-card-index":"1"`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/latest/meta-data/mac", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() //nolint:gosec // not read
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %s", resp.Status)
	}
	c := New(Config{Endpoint: url})
	if id, err := c.InstanceID(t.Context()); id != "i-1234567890abcdef0" || err != nil {
		t.Errorf("InstanceID = %q, %v", id, err)
	}
	if region, err := c.get(t.Context(), "placement/region"); region != "us-east-1" || err != nil {
		t.Errorf("region %q, %v", region, err)
	}
	if value, err := c.get(t.Context(), "no-such-key"); !errors.Is(err, errNoKey) {
		t.Errorf("no such key: %q, %v", value, err)
	}
	want := []vpc.ENI{{
		ID: "eni-0f95d3625f5c521cc", MAC: "0e:49:61:0f:c3:11", NetworkCard: 1, SubnetID: "subnet-0ac62554", SubnetCIDR: netip.MustParsePrefix("192.0.2.0/24"),
		VPCCIDRs: prefixes("192.0.2.0/24"), Addresses: prefixes("192.0.2.54/24", "192.0.2.55/24", "2001:db8:8:4::2/32"), Primary: true,
	}}
	for range 2 { // the second from memory
		got, err := c.ENIs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("ENIs (-want +got):\n%s", diff)
		}
	}
}

// TestAWSMockAsItComes: the mock's default address lies outside of its subnet, so the whole ENI is left out.
func TestAWSMockAsItComes(t *testing.T) {
	got, err := New(Config{Endpoint: awsMock(t, "")}).ENIs(t.Context())
	want := []vpc.ENI{{MAC: "0e:49:61:0f:c3:11", DeviceIndex: -1, NetworkCard: -1, Primary: true}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); err != nil || diff != "" {
		t.Errorf("ENIs: %v (-want +got):\n%s", err, diff)
	}
}

func TestAWSMockSenseless(t *testing.T) {
	got, err := New(Config{Endpoint: awsMock(t, `"mac-subnet-id":"subnet"`)}).ENIs(t.Context())
	if err != nil || len(got) != 1 || got[0].ID != "eni-0f95d3625f5c521cc" || got[0].Unreadable == nil || got[0].Unreadable.Value != "subnet" {
		t.Errorf("ENIs: %+v, %v", got, err)
	}
}
