package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// socketsDir is the folder of device plugins' sockets.
func (c *nodeFlags) socketsDir() string { return filepath.Join(c.kubeletDir, deviceplugin.SocketsDir) }

// offerBy gives the loop the daemon's own device plugin, and returns the plugin, which is not running yet.
func (c *nodeFlags) offerBy(o *reconcile.Options, k *cluster, services *problem.Services, changed func(), log logrus.FieldLogger) *deviceplugin.Plugin {
	options := deviceplugin.Options{
		Kubelet: deviceplugin.NewSockets(c.socketsDir(), services), Devices: sysfs.NewFS(c.sysfs), DeviceInfo: c.deviceInfoDir, Changed: changed,
		Now: time.Now, Log: log,
	}
	if k.kubelet != nil {
		options.Allocations = k.kubelet.Devices
	}
	plugin := deviceplugin.New(options)
	o.Offer, o.Wish = plugin, func() reconcile.Wish { return wish(nodestate.OfferMode(c.offer), k) }
	return plugin
}

// wish returns the Node's label, or else the flag.
func wish(flag nodestate.OfferMode, k *cluster) reconcile.Wish {
	if k.source == nil {
		return reconcile.Wish{Mode: flag, Known: true}
	}
	value, known := k.source.Label(offerLabel)
	switch mode := nodestate.OfferMode(value); {
	case !known || value == "":
		return reconcile.Wish{Mode: flag, Known: known}
	case mode == nodestate.OfferPCIDP || mode == nodestate.OfferDevicePlugin:
		return reconcile.Wish{Mode: mode, Known: true}
	}
	return reconcile.Wish{Mode: flag, Known: true, Invalid: value}
}

// runPlugin runs the plugin until ctx ends, and returns a channel that is closed when nothing is served any more.
func runPlugin(ctx context.Context, plugin *deviceplugin.Plugin) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		plugin.Run(ctx)
		close(ended)
	}()
	return ended
}
