package controller

import (
	"flag"
	"testing"
	"testing/synctest"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

var verbose = flag.Bool("story-log", false, "log the controllers' lines with -v")

// story runs a test in a bubble of its own time. No credentials are looked for.
func story(t *testing.T, tell func(t *testing.T)) {
	t.Helper()
	for k, v := range map[string]string{
		"AWS_REGION": fakeec2.DefaultRegion, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(k, v)
	}
	synctest.Test(t, tell)
}

func TestAttachAndRemove(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.addNode("node-1")
		w.lead()
		time.Sleep(5 * time.Second)
		w.declare("blue", 1, a1)
		took := w.wait(time.Minute, "attached", func() bool {
			s := w.api.state("node-1")
			return s != nil && len(s.Spec.Attachments) == 1 && s.Spec.Attachments[0].Phase == "Attached"
		})
		t.Logf("applied to Attached: %v", took)
		if took > 1500*time.Millisecond {
			t.Errorf("applied to Attached took %v, want at most 1.5 s", took)
		}
		w.wait(10*time.Second, "status", w.attached(1))
		if n := w.ec2.Tally("").Mutating; n != 3 {
			t.Errorf("%d mutating calls, want 3: %v", n, w.ec2.Calls())
		}
		w.deleteNodeENI("blue")
		took = w.wait(2*time.Minute, "gone", w.gone)
		t.Logf("deleted to gone: %v", took)
		if n := w.ec2.Tally("").Mutating; n != 5 {
			t.Errorf("%d mutating calls, want 5: %v", n, w.ec2.Calls())
		}
		t.Log(w.told())
		t.Log(w.writes)
	})
}
