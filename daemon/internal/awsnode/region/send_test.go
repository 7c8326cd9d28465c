package region

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

// environment is the SDK's, with a key and a region, and without any file or metadata service.
func environment(t *testing.T, changes map[string]string) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	all := map[string]string{
		"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": none,
		"AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "",
	}
	for name, value := range changes {
		all[name] = value
	}
	for name, value := range all {
		t.Setenv(name, value)
	}
}

// errLost is a guard's.
var errLost = errors.New("the Lease is lost")

// TestGuard: the guard is asked after the wait for the bucket, and its error means that nothing was sent.
func TestGuard(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, func(t *testing.T) {
		s := fakeec2.New(account())
		begin := time.Now()
		var codes []string
		c := New(Config{QPS: 0.1, Burst: 1, HTTPClient: s, Guard: func() error {
			if time.Since(begin) > 15*time.Second {
				return errLost
			}
			return nil
		}, Observe: func(action, code string, _ time.Duration) { codes = append(codes, action+" "+code) }})
		for n := range 3 {
			_, err := c.Create(t.Context(), vpc.Creation{Token: fmt.Sprint(n), SubnetID: subnet1, Groups: []string{group1}})
			var e *vpc.EC2Error
			if lost := n == 2; lost != errors.Is(err, errLost) || lost && (!errors.As(err, &e) || e.Kind != vpc.EC2NotSent || !errors.Is(err, sdk.ErrNotSent)) {
				t.Errorf("call %d after %v: %v", n, time.Since(begin), err)
			}
		}
		if _, err := c.Interfaces(t.Context(), vpc.Query{}); err != nil {
			t.Errorf("a look needs no Lease: %v", err)
		}
		if n := s.Tally(createInterface).Calls; n != 2 || c.Mutations() != 2 {
			t.Errorf("EC2 has got %d calls, and %d were counted, want 2", n, c.Mutations())
		}
		want := []string{"CreateNetworkInterface OK", "CreateNetworkInterface OK", "CreateNetworkInterface NotSent", "DescribeNetworkInterfaces OK"}
		if diff := cmp.Diff(want, codes); diff != "" {
			t.Errorf("observed (-want +got):\n%s", diff)
		}
	})
}

// TestWithdrawn: a change that nobody wants any more is not sent, and gives its place to the next. One that was sent goes on.
func TestWithdrawn(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, func(t *testing.T) {
		cfg := account()
		cfg.Latency = func(string) time.Duration { return 2 * time.Second }
		s := fakeec2.New(cfg)
		c := New(Config{QPS: 0.1, Burst: 1, HTTPClient: s})
		errEnough := errors.New("enough")
		create := func(token string, stands time.Duration) (time.Duration, error) {
			standing, end := context.WithCancelCause(t.Context())
			defer end(nil)
			timer := time.AfterFunc(stands, func() { end(errEnough) })
			defer timer.Stop()
			begin := time.Now()
			_, err := c.Create(vpc.WhileStanding(t.Context(), standing), vpc.Creation{Token: token, SubnetID: subnet1, Groups: []string{group1}})
			return time.Since(begin), err
		}
		if took, err := create("sent", time.Second); err != nil || took != 2*time.Second {
			t.Errorf("sent before it was withdrawn: %v after %v", err, took)
		}
		for _, stands := range []time.Duration{0, 3 * time.Second} {
			took, err := create("waiting", stands)
			var e *vpc.EC2Error
			if took != stands || !errors.Is(err, errEnough) || !errors.As(err, &e) || e.Kind != vpc.EC2NotSent {
				t.Errorf("withdrawn after %v: %v after %v", stands, err, took)
			}
		}
		if took, err := create("last", time.Minute); err != nil || took != 10*time.Second-3*time.Second {
			t.Errorf("the next one: %v after %v", err, took)
		}
		if n := s.Tally(createInterface).Calls; n != 2 || c.Mutations() != 2 {
			t.Errorf("EC2 has got %d calls, and %d were counted, want 2", n, c.Mutations())
		}
	})
}

// TestGuardOverHTTP: net/http has sent nothing when the guard refuses, whether the connection is old or new.
func TestGuardOverHTTP(t *testing.T) {
	var refuse bool
	c, s := client(t, account(), Config{Guard: func() error {
		if refuse {
			return errLost
		}
		return nil
	}})
	for n := range 60 {
		refuse = n%3 != 1
		if err := c.Delete(t.Context(), "eni-0000dead"); refuse != errors.Is(err, errLost) || !refuse && code(err) != noInterface {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	if n := s.Tally(deleteInterface).Calls; n != 20 || c.Mutations() != 20 {
		t.Errorf("EC2 has got %d calls, and %d were counted, want 20", n, c.Mutations())
	}
}

// TestChangesAreSentOnce, however they end; the kind of the error says whether EC2 may have done it.
func TestChangesAreSentOnce(t *testing.T) {
	for fault, want := range map[string]vpc.EC2Kind{
		fakeec2.Drop: vpc.EC2Unknown, fakeec2.Lose: vpc.EC2Unknown, fakeec2.Truncate: vpc.EC2Unknown, fakeec2.HTML: vpc.EC2Unknown, fakeec2.Nothing: vpc.EC2Unknown,
		fakeec2.HTML503: vpc.EC2Unknown, fakeec2.Empty500: vpc.EC2Unknown, "InternalError": vpc.EC2Unknown, "RequestLimitExceeded": vpc.EC2Throttled,
		"UnauthorizedOperation": vpc.EC2Forbidden, "OperationNotPermitted": vpc.EC2Refused,
	} {
		t.Run(fault, func(t *testing.T) {
			c, s := client(t, account(), Config{})
			s.Fail(createInterface, fault)
			_, err := c.Create(t.Context(), vpc.Creation{Token: "a", SubnetID: subnet1, Groups: []string{group1}})
			var e *vpc.EC2Error
			if !errors.As(err, &e) || e.Kind != want || !strings.Contains(e.Error(), "CreateNetworkInterface a") {
				t.Errorf("%v, %+v", err, e)
			}
			if n := s.Tally(createInterface).Calls; n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

// TestLooksAreRepeated until they succeed, at most four times in all, and not when another attempt is pointless.
func TestLooksAreRepeated(t *testing.T) {
	for name, tt := range map[string]struct {
		faults []string
		calls  int
		code   string
	}{
		"passes":      {[]string{fakeec2.Drop, "InternalError", "RequestLimitExceeded"}, 4, ""},
		"does not":    {[]string{"Unavailable", "Unavailable", "Unavailable", "Unavailable"}, 4, "Unavailable"},
		"no right":    {[]string{"UnauthorizedOperation"}, 1, "UnauthorizedOperation"},
		"a bad value": {[]string{"InvalidParameterValue"}, 1, "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := client(t, account(), Config{})
			s.Fail(describeInterfaces, tt.faults...)
			_, err := c.Interfaces(t.Context(), vpc.Query{})
			if n := s.Tally(describeInterfaces).Calls; n != tt.calls || code(err) != tt.code {
				t.Errorf("%d calls, %v", n, err)
			}
		})
	}
}

// TestSlowsDown: EC2's throttling slows one action down, and the others not.
func TestSlowsDown(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, func(t *testing.T) {
		s := fakeec2.New(account())
		c := New(Config{HTTPClient: s})
		s.Fail(deleteInterface, "RequestLimitExceeded")
		for want, call := range map[string]func() error{
			"RequestLimitExceeded":         func() error { return c.Delete(t.Context(), "eni-0000dead") },
			"InvalidAttachmentID.NotFound": func() error { return c.Detach(t.Context(), "eni-attach-0000dead", false) },
		} {
			if err := call(); code(err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		if diff := cmp.Diff(map[string]float64{deleteInterface: 2, detachInterface: 4}, c.Rates()); diff != "" {
			t.Errorf("rates (-want +got):\n%s", diff)
		}
	})
}

// TestGivenUp: a caller that gives up while it waits for the rate, or for the answer, is told apart by the kind.
func TestGivenUp(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, func(t *testing.T) {
		cfg := account()
		cfg.Latency = func(string) time.Duration { return time.Minute }
		s := fakeec2.New(cfg)
		c := New(Config{HTTPClient: s, QPS: 0.01, Burst: 1})
		var wg sync.WaitGroup
		for n, want := range []vpc.EC2Kind{vpc.EC2Unknown, vpc.EC2NotSent} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err := c.Delete(ctx, "eni-0000dead")
				var e *vpc.EC2Error
				if !errors.As(err, &e) || e.Kind != want || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("call %d: %v, %+v", n, err, e)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		begin := time.Now()
		c = New(Config{HTTPClient: s})
		if err := c.Delete(t.Context(), "eni-0000dead"); err == nil || time.Since(begin) != answerTimeout {
			t.Errorf("without an answer: %v after %v", err, time.Since(begin))
		}
	})
}

// TestConnect: without region or credentials a start fails with the way out, and sends nothing.
func TestConnect(t *testing.T) {
	imds := fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{InstanceID: instance1, Region: "eu-central-1", RoleKey: "AKIDOFTHEROLE"}})
	for name, tt := range map[string]struct {
		env  map[string]string
		want string
	}{
		"all there":     {nil, ""},
		"no region":     {map[string]string{"AWS_REGION": ""}, "set AWS_REGION"},
		"no key":        {map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "give the ServiceAccount a role by EKS Pod Identity or IRSA"},
		"from metadata": {map[string]string{"AWS_REGION": "", "AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.URL}, ""},
		"role of the instance": {map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "",
			"AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.URL}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, tt.env)
			cfg := account()
			s := fakeec2.New(cfg)
			c := New(Config{HTTPClient: s})
			err := c.Connect(t.Context())
			var e *vpc.EC2Error
			switch {
			case tt.want == "":
				if err == nil {
					_, err = c.Interfaces(t.Context(), vpc.Query{})
				}
				if err != nil {
					t.Error(err)
				}
			case !errors.As(err, &e) || e.Kind != vpc.EC2NotSent || !strings.Contains(err.Error(), tt.want):
				t.Errorf("%v, want %q", err, tt.want)
			case s.Tally(describeInterfaces).Calls > 0:
				t.Error("EC2 was asked")
			}
		})
	}
}

// stub answers each request with an error, before it has read the request.
type stub struct{ err error }

func (s stub) Do(*http.Request) (*http.Response, error) { return nil, s.err }

// TestNotSent: EC2 cannot have got a request whose body nobody has read.
func TestNotSent(t *testing.T) {
	environment(t, nil)
	c := New(Config{HTTPClient: stub{errors.New("no connection")}})
	err := c.Delete(t.Context(), "eni-0000dead")
	var e *vpc.EC2Error
	if !errors.As(err, &e) || e.Kind != vpc.EC2NotSent || c.Mutations() != 0 {
		t.Errorf("%v, %+v, %d mutations", err, e, c.Mutations())
	}
}

// TestPagesEnd: an answer whose pages never end is an error.
func TestPagesEnd(t *testing.T) {
	for name, next := range map[string]func(n int) string{
		"the same token": func(int) string { return "again" }, "ever new tokens": func(n int) string { return fmt.Sprint(n) },
	} {
		n := 0
		err := pages(describeInterfaces, func(*string) (*string, error) {
			n++
			token := next(n)
			return &token, nil
		})
		var e *vpc.EC2Error
		if !errors.As(err, &e) || name == "the same token" && n != 2 || n > maxPages {
			t.Errorf("%s: %v after %d pages", name, err, n)
		}
	}
}

// TestForceAndExpress: both arrive only if asked for.
func TestForceAndExpress(t *testing.T) {
	environment(t, nil)
	cfg := account()
	cfg.Instances[0].Type = "c6in.16xlarge"
	cfg.ENIs = []fakeec2.ENI{{ID: "eni-00000001", MAC: "02:00:00:00:00:01", SubnetID: subnet1}}
	s := fakeec2.New(cfg)
	c := New(Config{HTTPClient: s})
	for _, on := range []bool{false, true} {
		attachment, err := c.Attach(t.Context(), vpc.Joining{ENI: "eni-00000001", Instance: instance1, DeviceIndex: 1, EnaExpress: on})
		if err != nil || s.ENI("eni-00000001").EnaExpress != on {
			t.Errorf("ENA Express %v: %v", on, err)
		}
		if err := c.Detach(t.Context(), attachment, on); err != nil {
			t.Error(err)
		}
		if all := s.Events(); all[len(all)-1].Action != detachInterface || all[len(all)-1].Force != on {
			t.Errorf("force %v: %+v", on, all[len(all)-1])
		}
	}
}
