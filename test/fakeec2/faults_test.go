package fakeec2

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// TestFaults: with a network and without one, a call's answer and its effect are the same.
func TestFaults(t *testing.T) {
	for fault, tt := range map[string]struct {
		code string
		done bool
	}{
		Drop: {"none", false}, Lose: {"none", true}, Truncate: {"none", true}, Redirect: {"none", false}, HTML503: {"none", false}, Empty500: {"none", false},
		"InternalError": {"InternalError", false}, "Unavailable": {"Unavailable", false}, "RequestLimitExceeded": {"RequestLimitExceeded", false},
	} {
		for _, network := range []bool{false, true} {
			w := newWorld(t)
			if network {
				l := httptest.NewServer(w.Server)
				t.Cleanup(l.Close)
				w.sdk = ec2.New(w.sdk.Options(), func(o *ec2.Options) { o.HTTPClient, o.BaseEndpoint = l.Client(), &l.URL })
			}
			before := len(w.All())
			w.Fail("CreateNetworkInterface", fault)
			_, err := w.sdk.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: aws.String("subnet-1"),
				ClientToken: aws.String("t")})
			got := code(err)
			if got != tt.code && (err == nil || tt.code != "none") || len(w.All()) > before != tt.done {
				t.Errorf("%s, network %v: %v, %d ENIs", fault, network, err, len(w.All())-before)
			}
			if events := w.Events(); (len(events) == 1 && events[0].Lost) != tt.done {
				t.Errorf("%s: events %+v", fault, events)
			}
			w.create("t", "subnet-1")
			if n := len(w.All()) - before; n != 1 {
				t.Errorf("%s, network %v: %d ENIs after a repetition", fault, network, n)
			}
		}
	}
}

func TestFaultOfConfig(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Fault = func(action string) string {
			if action == "DeleteNetworkInterface" {
				return "InternalError"
			}
			return ""
		}
	})
	eni := w.create("", "subnet-1")
	w.want(w.delete(eni), "InternalError")
	if n := w.Tally("DeleteNetworkInterface"); n != (Tally{Calls: 1, Refused: 1}) {
		t.Errorf("%+v", n)
	}
}

func TestThrottle(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Buckets = map[string]Bucket{"DescribeNetworkInterfaces": {Rate: 2, Size: 3}, "": {Rate: 100, Size: 100}}
	})
	ask := func() string {
		_, err := w.describe("tag:a=b")
		return code(err)
	}
	for n, want := range []string{"", "", "", "RequestLimitExceeded", "RequestLimitExceeded"} {
		if got := ask(); got != want {
			t.Errorf("call %d: %q, want %q", n, got, want)
		}
	}
	w.pass(500 * time.Millisecond)
	if first, second := ask(), ask(); first != "" || second != "RequestLimitExceeded" {
		t.Errorf("half a second later: %q, %q", first, second)
	}
	w.create("", "subnet-1")
	w.SetBuckets(nil)
	if got := ask(); got != "" {
		t.Errorf("without buckets: %q", got)
	}
}

func TestManyCallersAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Now, c.AttachTakes, c.DetachTakes = time.Now, time.Microsecond, time.Microsecond })
	var all sync.WaitGroup
	for k := range 8 {
		all.Go(func() {
			for n := range 10 {
				eni := w.create(fmt.Sprint(k, "-", n), "subnet-1", "slot", fmt.Sprint(k))
				if attachment, err := w.attach(eni, "i-3", int32(k+1), 0); err != nil {
					t.Error(err)
				} else if err := w.detach(attachment, true); err != nil {
					t.Error(err)
				}
				if found, err := w.describe("tag:slot=" + fmt.Sprint(k)); err != nil || len(found) != 1 {
					t.Errorf("%d ENIs, %v", len(found), err)
				}
				w.want(w.delete(eni), "")
			}
		})
	}
	all.Wait()
	if sum := w.Tally(""); sum.Mutating != 8*10*4 || sum.Refused > 0 || len(w.Events()) != sum.Mutating {
		t.Errorf("%+v, %d events", sum, len(w.Events()))
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Now, c.Latency = time.Now, func(string) time.Duration { return time.Second } })
		began := time.Now()
		eni := w.create("", "subnet-1")
		if took := time.Since(began); took != time.Second || !w.ENI(eni).Created.Equal(began.Add(time.Second/2)) {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		_, err := w.sdk.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &eni})
		if !errors.Is(err, context.DeadlineExceeded) || w.ENI(eni).Deleted.IsZero() {
			t.Errorf("%v: the caller gave up after the deletion", err)
		}
	})
}
