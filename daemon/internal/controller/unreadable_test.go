package controller

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/region"
)

// TestUnreadableENI: an ENI whose description makes no sense is unknown. Nothing is done about it, and the others go on.
func TestUnreadableENI(t *testing.T) {
	for name, garble := range map[string]func(body []byte, eni string) []byte{
		"address": func(body []byte, eni string) []byte {
			return regexp.MustCompile("(?s)(<networkInterfaceId>"+eni+"<.*?<macAddress>)").ReplaceAll(body, []byte("${1}nonsense "))
		},
		"id": func(body []byte, eni string) []byte {
			return bytes.ReplaceAll(body, []byte("<networkInterfaceId>"+eni+"<"), []byte("<networkInterfaceId>eni 2<"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := newWorld(t)
				w.addNode("node-1")
				w.addNode("node-2")
				var bad atomic.Pointer[string]
				client := func(c *controller) *region.Client {
					return region.New(region.Config{Guard: c.fence, Now: time.Now, QPS: 100, Burst: 1000, HTTPClient: doer(func(
						r *http.Request,
					) (*http.Response, error) {
						answer, err := w.ec2.Do(r)
						eni := bad.Load()
						if err != nil || eni == nil {
							return answer, err
						}
						body, err := io.ReadAll(answer.Body)
						if bytes.Contains(body, []byte("DescribeNetworkInterfacesResponse")) {
							body = garble(body, *eni)
						}
						answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
						return answer, err
					})})
				}
				c := w.leadBy(client)
				w.declare("blue", 1, a1)
				w.wait(time.Minute, "attached", w.attached(2))
				eni := w.live()[0].ID
				for _, again := range []bool{false, true} { // also for a leader that has never seen it
					bad.Store(&eni)
					if again {
						c.kill()
						c = w.leadBy(client)
					}
					time.Sleep(25 * time.Minute)
					calls := w.ec2.Tally("").Mutating
					w.deleteNodeENI("blue")
					time.Sleep(25 * time.Minute)
					live := w.live()
					if len(live) != 1 || live[0].ID != eni || live[0].Instance == "" || w.nodeENI("blue") == nil {
						t.Fatalf("left: %+v, NodeENI %v\n%s", live, w.nodeENI("blue"), w.describe())
					}
					if n := w.ec2.Tally("").Mutating - calls; n != 2 && !again || n != 0 && again {
						t.Errorf("%d mutating calls", n)
					}
				}
				if told := w.eventsOf("UnreadableENI"); len(told) == 0 || !strings.Contains(told[0], "makes no sense") {
					t.Errorf("told: %q", told)
				}
				bad.Store(nil)
				w.wait(25*time.Minute, "gone", w.gone)
				c.kill()
			})
		})
	}
}
