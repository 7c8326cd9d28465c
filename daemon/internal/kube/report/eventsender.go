package report

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
)

// eventSender sends Events like client-go's recorder, with its counting of like ones and its limits (25 about one object at once,
// then one every 5 minutes). Unlike the recorder, it gives none up while the API server is away.
type eventSender struct {
	core       kubernetes.Interface
	nodeName   string
	now        func() time.Time
	correlator *record.EventCorrelator
	// sent tells Events of one moment apart.
	sent int64
}

func newEventSender(c *client.Client, now func() time.Time) eventSender {
	return eventSender{
		core: c.Core, nodeName: c.NodeName, now: now,
		correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{Clock: passiveClock(now)}),
	}
}

type passiveClock func() time.Time

func (c passiveClock) Now() time.Time { return c() }

func (c passiveClock) Since(t time.Time) time.Duration { return c().Sub(t) }

// maxEventName leaves room for the number that makes Events' names unique; names have at most 253 bytes.
const maxEventName = 230

// prepare returns the function that sends an Event. It may be called until it succeeds.
func (s *eventSender) prepare(n event) func(context.Context) error {
	s.sent++
	now := metav1.NewTime(s.now())
	name := strings.TrimRight(n.about.Name[:min(len(n.about.Name), maxEventName)], ".-")
	result, err := s.correlator.EventCorrelate(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s.%x", name, now.UnixNano()+s.sent), Namespace: cmp.Or(n.about.Namespace, metav1.NamespaceDefault),
		},
		InvolvedObject: n.about, Type: n.kind, Reason: string(n.reason), Message: n.message,
		Source:              corev1.EventSource{Component: client.FieldManager, Host: s.nodeName},
		ReportingController: client.FieldManager, ReportingInstance: s.nodeName,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if err != nil || result.Skip {
		return func(context.Context) error { return err }
	}
	return func(ctx context.Context) error {
		events := s.core.CoreV1().Events(result.Event.Namespace)
		var stored *corev1.Event
		again := result.Event.Count > 1
		if again {
			stored, err = events.Patch(ctx, result.Event.Name, types.StrategicMergePatchType, result.Patch, metav1.PatchOptions{})
		}
		if !again || apierrors.IsNotFound(err) {
			result.Event.ResourceVersion = ""
			stored, err = events.Create(ctx, result.Event, metav1.CreateOptions{})
		}
		if apierrors.IsAlreadyExists(err) {
			return nil // it was made by a call whose answer was lost
		}
		if err != nil {
			return fmt.Errorf("send Event: %w", err)
		}
		s.correlator.UpdateState(stored)
		return nil
	}
}
