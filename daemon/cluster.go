package main

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/nodeeni"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/pluginpods"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/report"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/taint"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/podresources"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
)

// cluster has the daemon's clients of Kubernetes. Any of them may be nil.
type cluster struct {
	source   *nodeeni.Source
	plugin   *pluginpods.DevicePlugin
	reporter *report.Reporter
	taint    *taint.Remover
	kubelet  *podresources.Client
	release  func(context.Context, client.OwnPod) error
}

// connect makes the clients that the flags ask for. They send nothing yet. instance returns
// the id of this EC2 instance, or "" while it is not known.
func (c *nodeFlags) connect(log *logrus.Logger, instance func() string) (*cluster, error) {
	var k cluster
	if c.podresources != "" {
		k.kubelet = podresources.New(c.podresources, c.ownPod().Key(), time.Now)
	}
	if !c.usesAPI() {
		return &k, nil
	}
	api, err := client.Connect(client.Config{NodeName: c.nodeName, Kubeconfig: c.kubeconfig, UserAgent: "multi-enid/" + version, Log: log})
	if err != nil {
		return nil, err
	}
	if c.restart == restartPods {
		o := pluginpods.Options{Namespaces: c.dpNamespaces, Selectors: c.dpSelectors, Config: c.pcidpConfig, Now: time.Now, Log: log}
		if k.kubelet != nil {
			o.Kubelet = k.kubelet.Devices
		}
		if k.plugin, err = pluginpods.New(api, o); err != nil {
			return nil, err
		}
	}
	k.release = api.ReleaseOwnPod
	k.source = nodeeni.New(api, nodeeni.Options{Lookup: c.lookup(), Instance: instance, StateGone: func() { k.reporter.Gone() }, Now: time.Now, Log: log})
	reported := report.Options{Node: k.source.Node, Now: time.Now, Log: log}
	if c.lookup() == inventory.LookupEntries {
		reported.Reported = k.source.Reported
	}
	k.reporter = report.New(api, reported)
	if c.startupTaint {
		k.taint = taint.New(api, log)
	}
	return &k, nil
}

func (k *cluster) use(o *reconcile.Options) {
	if k.source != nil {
		o.NodeENIs = k.source
	}
	if k.plugin != nil {
		o.DevicePlugin = k.plugin
	}
	if k.kubelet != nil {
		o.Kubelet = k.kubelet
	}
}

// run starts the background work, which ends with ctx.
func (k *cluster) run(ctx context.Context, wake, news func()) {
	if k.source != nil {
		go k.source.Run(ctx, wake, news)
		go k.reporter.Run(ctx)
	}
	if k.taint != nil {
		go k.taint.Run(ctx)
	}
}

func (k *cluster) observe(v view.View) {
	if k.reporter != nil {
		k.reporter.Observe(v)
	}
	if k.taint != nil {
		k.taint.Observe(v)
	}
}

func (k *cluster) serve(o *server.Options) {
	if k.source == nil {
		return
	}
	o.EventsDropped = k.reporter.Dropped
	o.API = func() (reachable bool, reason string) { s := k.source.API(); return s.Reachable, string(s.Reason) }
}
