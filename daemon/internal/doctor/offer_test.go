package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// offering is a node whose daemon offers two resources itself.
func (w *world) offering() {
	w.Helper()
	w.o.Offer = Offer{Mode: nodestate.OfferDevicePlugin, Folder: w.path("dp"), Info: w.path("info"),
		Sockets: func(n device.ResourceName) string { _, name := n.Split(); return name + ".sock" }}
	w.plugin(pluginrestart.PluginReport{}, pluginrestart.ErrNoDevicePlugin)
	for _, dir := range []string{"dp", "info"} {
		w.must(os.Mkdir(w.path(dir), 0o750))
	}
	w.remember(nodestate.OfferDevicePlugin, "intel.com/a", "intel.com/b")
	for _, name := range []string{"kubelet", "a", "b"} {
		w.listen("dp/" + name + ".sock")
	}
}

// remember writes the checkpoint's part of the offer.
func (w *world) remember(mode nodestate.OfferMode, names ...device.ResourceName) {
	w.Helper()
	w.must(nodestate.WriteCheckpoint(nodestate.CheckpointPath(w.o.StateDir), nodestate.Checkpoint{Offer: nodestate.OfferMemory{Mode: mode, Names: names}}))
}

// listen accepts connections at a socket.
func (w *world) listen(name string) {
	w.Helper()
	l := w.socket(name)
	w.Cleanup(func() { _ = l.Close() })
}

// deaf leaves a socket without a listener.
func (w *world) deaf(name string) {
	w.Helper()
	w.must(os.RemoveAll(w.path(name)))
	w.must(w.socket(name).Close())
}

// socket makes one that outlives its listener. Its path may be of any length.
func (w *world) socket(name string) (l *net.UnixListener) {
	w.Helper()
	w.must(status.WithShortName(w.path(name), func(name string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		return err
	}))
	l.SetUnlinkOnClose(false)
	return l
}

func (w *world) label(value string, err error) {
	w.o.Offer.Label = func(context.Context) (string, error) { return value, err }
}

func TestOffer(t *testing.T) {
	w := newWorld(t)
	w.says(offer)
	w.offering()
	served := []string{"ok offer: the kubelet answers at /node/dp/kubelet.sock", "ok offer: resources served: 2"}
	w.says(offer, append([]string{"ok offer: mode deviceplugin, by --offer"}, served...)...)
	w.says(devicePlugin, "ok device plugin: none found on this node, and none is needed")
	w.label("", nil)
	w.says(offer, append([]string{"ok offer: mode deviceplugin, by --offer"}, served...)...)
	w.label("pcidp", nil)
	w.says(offer)
	w.says(devicePlugin, "warn device plugin: none found on this node")
	w.o.Offer.Mode = nodestate.OfferPCIDP
	w.label("deviceplugin", nil)
	w.says(offer, append([]string{"ok offer: mode deviceplugin, by the Node's label networking.k8s.aws/offer"}, served...)...)
	w.label("", errors.New("forbidden"))
	w.says(offer)
	w.label("dra", nil)
	w.says(offer, `warn offer: the Node's label networking.k8s.aws/offer is "dra", so the mode stays as it was; set it to pcidp or deviceplugin`)
}

func TestOfferFaults(t *testing.T) {
	on := func(happen func(w *world)) func(w *world) {
		return func(w *world) { w.offering(); happen(w) }
	}
	find(t, map[string]fault{
		"no folder": {on(func(w *world) { w.o.Offer.Folder = w.path("nowhere"); w.remember(nodestate.OfferDevicePlugin) }), Fail, "offer",
			[]string{"there is no folder /node/nowhere", "/var/lib/kubelet/device-plugins", "--kubelet-dir"}},
		"no kubelet":     {on(func(w *world) { w.must(os.Remove(w.path("dp/kubelet.sock"))) }), Fail, "offer", []string{"there is no /node/dp/kubelet.sock"}},
		"a deaf kubelet": {on(func(w *world) { w.deaf("dp/kubelet.sock") }), Fail, "offer", []string{"nobody answers at /node/dp/kubelet.sock", "start the kubelet"}},
		"a file for it": {on(func(w *world) { w.o.Offer.Folder = w.path("etc/policy.json"); w.remember(nodestate.OfferDevicePlugin) }), Fail, "offer",
			[]string{"is no folder"}},
		"no socket of ours": {on(func(w *world) { w.must(os.Remove(w.path("dp/a.sock"))) }), Fail, "offer",
			[]string{"resource intel.com/a is not served: nobody answers at /node/dp/a.sock", "start multi-enid run"}},
		"a deaf socket":    {on(func(w *world) { w.deaf("dp/b.sock") }), Fail, "offer", []string{"resource intel.com/b", "nobody answers at /node/dp/b.sock"}},
		"not taken over":   {on(func(w *world) { w.remember("", "intel.com/a") }), Warn, "offer", []string{"has not begun", "multi-enid status"}},
		"handed back":      {on(func(w *world) { w.remember(nodestate.OfferPCIDP, "intel.com/a") }), Warn, "offer", []string{"has not begun"}},
		"no device info":   {on(func(w *world) { w.must(os.Remove(w.path("info"))) }), Fail, "offer", []string{"there is no folder /node/info", "devinfo/dp"}},
		"an invalid label": {on(func(w *world) { w.label("dra", nil) }), Warn, "offer", []string{`"dra"`}},
	})
}
