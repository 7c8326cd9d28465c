package onenode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

const (
	churnCycles = 200
	// churnPace is the least time of a cycle.
	churnPace = 500 * time.Millisecond
)

// TestOfferChurn: a NodeENI comes and goes while a pod with another resource starts each second. Nobody else sees it.
func TestOfferChurn(t *testing.T) {
	s := newStage(t, 5)
	s.useOffer()
	s.startDevicePlugin()
	for _, e := range s.enis {
		s.must(s.declare(e))
	}
	cluster.Eventually(t, "all offered", settle, s.kubeletLists(s.enis...))
	cluster.Eventually(t, "device plugin", settle, func() error {
		if s.devicePlugins() == "" {
			return errors.New("it does not run")
		}
		return s.offering("deviceplugin", "Offered")()
	})
	plugins, from, restarts := s.devicePlugins(), s.kubeletNow(), s.restarts()

	ctx, end := context.WithCancel(t.Context())
	c := &traffic{stage: s, during: ctx}
	var wg sync.WaitGroup
	wg.Go(func() { c.startPods(s.enis[1:]) })
	came, went := s.cycle(s.enis[0])
	end()
	wg.Wait()
	for _, err := range c.faults {
		t.Error(err)
	}
	t.Logf("%d cycles with %d pods; declared to listed by the kubelet: %s; deleted to listed no more: %s", churnCycles, c.pods, spread(came), spread(went))
	if c.pods < churnCycles/4 {
		t.Errorf("only %d pods", c.pods)
	}
	for name, gap := range s.gaps(from, s.enis[1:]...) {
		if gap > 0 && name != s.enis[0].resource() {
			t.Errorf("%s had no device for %v", name, gap)
		}
	}
	list, err := s.Admin.CoreV1().Events("default").List(s.Context(), metav1.ListOptions{FieldSelector: "reason=UnexpectedAdmissionError"})
	s.must(err)
	s.must(none("UnexpectedAdmissionErrors", slices.DeleteFunc(list.Items, func(e corev1.Event) bool { // another test provokes one
		return !strings.HasPrefix(e.InvolvedObject.Name, "churn-")
	})))
	s.must(errors.Join(want(s.devicePlugins(), plugins), want(s.restarts(), restarts)))
}

// cycle has the NodeENI go and come, and returns how long the kubelet took to list its device, and to list it no more.
func (s *stage) cycle(e eni) (came, went []time.Duration) {
	s.Helper()
	others := s.enis[1:]
	for range churnCycles {
		began := time.Now()
		s.must(s.withdraw(e))
		went = append(went, cluster.Eventually(s.T, "gone", settle, s.kubeletLists(others...)))
		s.must(s.declare(e))
		came = append(came, cluster.Eventually(s.T, "offered", settle, s.kubeletLists(s.enis...)))
		time.Sleep(time.Until(began.Add(churnPace)))
	}
	return came, went
}

// startPods starts a pod each second until the traffic ends, with one ENI after the other. On a slow disk it starts fewer, so that they do not pile up.
func (c *traffic) startPods(enis []eni) {
	var wg sync.WaitGroup
	defer wg.Wait()
	each := time.NewTicker(time.Second)
	defer each.Stop()
	underWay := make(chan struct{}, 6)
	for i := 0; ; {
		select {
		case <-c.during.Done():
			return
		case <-each.C:
		}
		select {
		case underWay <- struct{}{}:
			pod := i
			wg.Go(func() {
				c.count(&c.pods, c.onePod(enis[pod%len(enis)], fmt.Sprintf("churn-%d", pod)))
				<-underWay
			})
			i++
		default:
		}
	}
}

func spread(all []time.Duration) string {
	slices.Sort(all)
	at := func(p int) time.Duration { return all[len(all)*p/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %v, p99 %v, most %v", at(50), at(99), all[len(all)-1].Round(100*time.Microsecond))
}
