package eventqueue

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
	"k8s.io/client-go/tools/record"
)

// sender sends Events like client-go's recorder, with its counting of like ones and its limits (25 about one object at once,
// then one every 5 minutes). Unlike the recorder, it gives none up while the API server is away.
type sender struct {
	Options
	correlator *record.EventCorrelator
	// sent tells Events of one moment apart.
	sent int64
}

func newSender(o Options) sender {
	return sender{Options: o, correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{Clock: passiveClock(o.Now)})}
}

type passiveClock func() time.Time

func (c passiveClock) Now() time.Time { return c() }

func (c passiveClock) Since(t time.Time) time.Duration { return c().Sub(t) }

// maxMessageBytes is the API server's limit.
const maxMessageBytes = 1024

// maxEventName leaves room for the number that makes Events' names unique; names have at most 253 bytes.
const maxEventName = 230

// prepare returns the function that sends an Event. It may be called until it succeeds.
func (s *sender) prepare(n Event) func(context.Context) error {
	s.sent++
	message := n.Message
	if len(message) > maxMessageBytes {
		message = strings.ToValidUTF8(message[:maxMessageBytes], "")
	}
	now := metav1.NewTime(s.Now())
	name := strings.TrimRight(n.About.Name[:min(len(n.About.Name), maxEventName)], ".-")
	result, err := s.correlator.EventCorrelate(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s.%x", name, now.UnixNano()+s.sent), Namespace: cmp.Or(n.About.Namespace, metav1.NamespaceDefault),
		},
		InvolvedObject: n.About, Type: n.Kind, Reason: n.Reason, Message: message,
		Source:              corev1.EventSource{Component: s.Component, Host: s.Host},
		ReportingController: s.Component, ReportingInstance: s.Host,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if err != nil || result.Skip {
		return func(context.Context) error { return err }
	}
	return func(ctx context.Context) error {
		events := s.Core.CoreV1().Events(result.Event.Namespace)
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
