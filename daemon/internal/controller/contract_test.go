package controller

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/region"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// eventsOf returns the messages of a reason.
func (w *world) eventsOf(reason string) (messages []string) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	for _, e := range w.events {
		if e.Reason == reason {
			messages = append(messages, e.Message)
		}
	}
	return messages
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// TestForbiddenAboutGone: a policy that asks for tags forbids calls about things that are gone. They end as if EC2 had said that they are gone, and
// hold no other slot back.
func TestForbiddenAboutGone(t *testing.T) {
	p := shippedPolicy(t, false)
	for _, action := range []string{"DetachNetworkInterface", "DeleteNetworkInterface"} {
		t.Run(action, func(t *testing.T) {
			story(t, func(t *testing.T) {
				var w *world
				var once sync.Once
				// Somebody takes all ENIs away while the controller's first call is under way.
				others := region.New(region.Config{Now: time.Now, HTTPClient: doer(func(r *http.Request) (*http.Response, error) { return w.ec2.Do(r) })})
				take := func() {
					for _, e := range w.live() {
						var err error
						if action == "DetachNetworkInterface" {
							err = others.Detach(t.Context(), e.Attachment(), false)
						} else {
							err = others.Delete(t.Context(), e.ID)
						}
						if err != nil {
							t.Error(err)
						}
					}
				}
				w = newWorld(t, func(c *fakeec2.Config) {
					c.Policy, c.AbsentForbidden = p, true
					c.Latency = func(a string) (wait time.Duration) {
						wait = time.Millisecond
						if a == action {
							once.Do(func() {
								go take()
								wait = 10 * time.Second
							})
						}
						return wait
					}
				})
				w.addNode("node-1")
				w.lead()
				w.declare("blue", 1, a1)
				w.wait(time.Minute, "attached", w.attached(1))
				time.Sleep(2 * time.Minute)
				w.deleteNodeENI("blue")
				w.wait(4*time.Minute, "gone", w.gone)
				if denied := w.ec2.Denied(); len(denied) == 0 {
					t.Errorf("nothing was forbidden: %v", w.ec2.Calls())
				}
				if told := slices.Concat(w.eventsOf("Forbidden"), w.eventsOf("ENIDetachmentFailed"), w.eventsOf("ENIDeletionFailed")); len(told) != 0 {
					t.Errorf("told: %q", told)
				}
			})
		})
	}
}
