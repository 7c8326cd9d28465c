// Package taint takes the startup taint from the own Node once its devices are ready.
package taint

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Key is the taint with which a kubelet can register its node (--register-with-taints). It keeps away pods that name a NodeENI
// and no resource until the node's devices are ready.
const Key = v1alpha1.GroupName + "/not-ready"

// Remover takes the taints of that key, with any value and effect, from the own Node when every NodeENI of the node has its devices ready.
// It does so once in a daemon's life, and never adds them. Observe and Run may run at the same time.
type Remover struct {
	client *client.Client
	log    logrus.FieldLogger
	ready  chan struct{} // closed when the devices are
	once   sync.Once
}

// New returns a Remover that asks for nothing until Run.
func New(c *client.Client, log logrus.FieldLogger) *Remover {
	return &Remover{client: c, log: log, ready: make(chan struct{})}
}

// Observe takes the View of a finished Sync. It does not block.
func (s *Remover) Observe(v view.View) {
	if !unread(v) && allReady(v) {
		s.once.Do(func() { close(s.ready) })
	}
}

// unread: the node's NodeENIs are unknown, or the controller's list is.
func unread(v view.View) bool {
	return v.ByController && v.Unlisted || slices.ContainsFunc(v.Inventory.Problems, func(p nodestate.Problem) bool {
		return p.Reason == reason.NodeENIsUnreadable
	})
}

// allReady: each NodeENI of the node has a ready device, and none that is pending.
func allReady(v view.View) bool {
	has := map[string]bool{}
	for _, d := range v.Inventory.Devices {
		switch d.Phase {
		case nodestate.PhasePending:
			return false
		case nodestate.PhaseReady:
			has[d.NodeENI] = true
		case nodestate.PhaseDraining: // of an earlier NodeENI
		}
	}
	return !slices.ContainsFunc(v.Declared, func(d view.Declared) bool { return !has[d.Name] })
}

// Run removes the taint in time, and then returns, or when ctx ends. Waits after failures double up to LastRetry of package client.
func (s *Remover) Run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.ready:
	}
	failing := client.NewFailures(s.log, "Node")
	for {
		err := s.remove(ctx)
		if err == nil {
			failing.Over()
			return
		}
		if !backoff.Sleep(ctx, failing.Failed(ctx, err)) {
			return
		}
	}
}

// patchOperation is one of RFC 6902.
type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// remove removes the present taints: if they have changed meanwhile, the whole patch fails.
func (s *Remover) remove(ctx context.Context) error {
	nodes := s.client.Core.CoreV1().Nodes()
	node, err := nodes.Get(ctx, s.client.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("remove taint %s: %w", Key, err)
	}
	var patch []patchOperation
	for i, taint := range slices.Backward(node.Spec.Taints) { // from the end: the places of the others stay
		if taint.Key == Key {
			path := fmt.Sprintf("/spec/taints/%d", i)
			patch = append(patch, patchOperation{"test", path, taint}, patchOperation{Op: "remove", Path: path})
		}
	}
	if len(patch) == 0 {
		return nil
	}
	body, err := json.Marshal(patch)
	if err == nil {
		_, err = nodes.Patch(ctx, s.client.NodeName, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: client.FieldManager})
	}
	if err != nil {
		return fmt.Errorf("remove taint %s: %w", Key, err)
	}
	s.log.WithField("taint", Key).Info("startup taint removed: the devices of this node are ready")
	return nil
}
