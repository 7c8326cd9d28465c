package controlplane

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

// TestFlags: all faults come at once, each with its flag, the value and the way out.
func TestFlags(t *testing.T) {
	const given = "--namespace=kube-system"
	for _, tt := range []struct {
		name string
		env  map[string]string
		args []string
		want []string // none: no fault
	}{
		{"given", nil, []string{given}, nil},
		{"from the pod", map[string]string{"POD_NAMESPACE": "kube-system", "POD_NAME": "a", "AWS_REGION": "eu-west-1"}, nil, nil},
		{"everything else", nil, []string{given, "--adopt=public", "--leak-sweep=off", "--ec2-qps=0.5", "--ec2-burst=1", "--force-detach-after=30m", "--listen=off"},
			nil},
		{"no namespace", nil, nil, []string{"--namespace", "POD_NAMESPACE"}},
		{"sweep", nil, []string{given, "--leak-sweep=all"}, []string{`--leak-sweep "all"`, "delete, report or off"}},
		{"adopt", nil, []string{given, "--adopt=me"}, []string{`--adopt "me"`, "none or public"}},
		{"no rate", nil, []string{given, "--ec2-qps=0"}, []string{"--ec2-qps 0", "such as 4"}},
		{"a rate that is none", nil, []string{given, "--ec2-qps=NaN"}, []string{"--ec2-qps NaN"}},
		{"too fast", nil, []string{given, "--ec2-qps=101"}, []string{"--ec2-qps 101", "100 at most"}},
		{"burst", nil, []string{given, "--ec2-burst=0"}, []string{"--ec2-burst 0", "such as 20"}},
		{"force", nil, []string{given, "--force-detach-after=-1s"}, []string{"--force-detach-after -1s", "0 for never"}},
		{"listen", nil, []string{given, "--listen=9617"}, []string{`--listen "9617"`, "127.0.0.1:9617"}},
		{"all at once", nil, []string{"--adopt=me", "--ec2-burst=-1"}, []string{"--namespace", "--adopt", "--ec2-burst"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c flags
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			c.add(set, func(k string) string { return tt.env[k] })
			if err := set.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			err := c.check()
			if (err != nil) != (tt.want != nil) {
				t.Fatalf("%v", err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v, want %q in it", err, w)
				}
			}
			if c.identity == "" {
				t.Error("no identity")
			}
		})
	}
}

// TestElect: the end waits for the leader's calls, and no longer than a pod may take.
func TestElect(t *testing.T) {
	for name, tt := range map[string]struct {
		calls, want time.Duration
		warned      bool
	}{
		"at once":     {0, 0, false},
		"some calls":  {5 * time.Second, 5 * time.Second, false},
		"a long call": {time.Hour, endPatience, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				log := logrus.New()
				log.SetOutput(&out)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Minute, cancel)
				begin := time.Now()
				err := elect(ctx, func(ctx context.Context, lead func(context.Context)) error { lead(ctx); return nil }, func(ctx context.Context) {
					<-ctx.Done()
					time.Sleep(tt.calls)
				}, log)
				if took := time.Since(begin) - time.Minute; err != nil || took != tt.want {
					t.Errorf("%v after %v, want %v", err, took, tt.want)
				}
				if warned := strings.Contains(out.String(), "Lease is not given back"); warned != tt.warned {
					t.Errorf("log %q", out.String())
				}
				time.Sleep(tt.calls) // until all has ended
			})
		})
	}
	failed := errors.New("no Lease")
	if err := elect(t.Context(), func(context.Context, func(context.Context)) error { return failed }, nil, logrus.New()); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}

// TestStart: without a way to the API server or to EC2 the controller does not begin, and says which flag helps.
func TestStart(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--namespace=x"}, "--kubeconfig"},
		{[]string{"--namespace=x", "--kubeconfig=/nowhere"}, "/nowhere"},
	} {
		var out bytes.Buffer
		p := Program{Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }, Version: "v1"}
		root := &cobra.Command{Use: "multi-enid"}
		root.AddCommand(p.Command(t.Context()))
		cli.Prepare(root, "v1")
		if code := cli.Execute(t.Context(), root, append([]string{"controller"}, tt.args...), &out); code != cli.Failure || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%q: code %d, %q", tt.args, code, out.String())
		}
	}
}
