package doctor

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Offer is the daemon's own offer of devices to the kubelet.
type Offer struct {
	Mode nodestate.OfferMode // the value of --offer
	// Label returns the value of the Node's label networking.k8s.aws/offer, which overrides Mode; "" for none. Nil without a cluster.
	Label func(context.Context) (string, error)
	// Folder has the sockets of the kubelet and of device plugins. Info is the folder of device-info files.
	Folder, Info string
	// Sockets returns the pattern of the names of a resource's sockets in Folder (filepath.Match).
	Sockets func(device.ResourceName) string
}

// wanted returns the mode that the node is to have, and where that is said. invalid is a label without a meaning, else "".
func (o Offer) wanted(ctx context.Context) (mode nodestate.OfferMode, by, invalid string) {
	mode, by = o.Mode, "--offer"
	if o.Label == nil {
		return mode, by, ""
	}
	label, err := o.Label(ctx)
	switch nodestate.OfferMode(label) {
	case nodestate.OfferPCIDP, nodestate.OfferDevicePlugin:
		mode, by = nodestate.OfferMode(label), "the Node's label networking.k8s.aws/offer"
	case "": // an unreadable Node is another check's finding
	default:
		if err == nil {
			invalid = label
		}
	}
	return mode, by, invalid
}

// own says whether the daemon is to offer the devices itself.
func (o Offer) own(ctx context.Context) bool {
	mode, _, _ := o.wanted(ctx)
	return mode == nodestate.OfferDevicePlugin
}

// offer has no finding in the mode pcidp, unless the label is wrong.
func offer(ctx context.Context, o Options) []Finding {
	const check = "offer"
	mode, by, invalid := o.Offer.wanted(ctx)
	var all []Finding
	if invalid != "" {
		all = warn(check, "set it to pcidp or deviceplugin, or remove it", "the Node's label networking.k8s.aws/offer is %.99q, so the mode stays as it was",
			invalid)
	}
	if mode != nodestate.OfferDevicePlugin {
		return all
	}
	all = append(all, ok(check, "mode %s, by %s", mode, by)...)
	all = append(all, kubeletSockets(ctx, check, o.Offer.Folder)...)
	if f := writable(check, o.Offer.Info); f != nil {
		f[0].Level, f[0].Remedy = Fail, "mount the host's /var/run/k8s.cni.cncf.io/devinfo/dp writable, or correct --device-info-dir; without it no pod gets a device"
		all = append(all, f...)
	}
	return append(all, ownSockets(ctx, check, o)...)
}

func kubeletSockets(ctx context.Context, check, folder string) []Finding {
	const remedy = "mount the host's /var/lib/kubelet/device-plugins writable, or correct --kubelet-dir"
	if f := writable(check, folder); f != nil {
		f[0].Level, f[0].Remedy = Fail, remedy
		return f
	}
	path := filepath.Join(folder, "kubelet.sock")
	switch err := answers(ctx, path); {
	case errors.Is(err, fs.ErrNotExist):
		return fail(check, "start the kubelet; else "+remedy, "there is no %s, so no device can be offered", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return fail(check, "start the kubelet", "nobody answers at %s, so no device can be offered", path)
	case err != nil:
		return fail(check, "run doctor as the daemon's user, in its container", "%s cannot be reached: %v", path, err)
	}
	return ok(check, "the kubelet answers at %s", path)
}

// ownSockets looks for the sockets of the resources that the checkpoint names.
func ownSockets(ctx context.Context, check string, o Options) []Finding {
	const remedy = "multi-enid status shows why"
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(o.StateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // another check reports it
	}
	if c.Offer.Mode != nodestate.OfferDevicePlugin {
		return warn(check, remedy, "the daemon has not begun to offer devices, so the SR-IOV device plugin does")
	}
	var all []Finding
	for _, name := range c.Offer.Names {
		pattern := filepath.Join(o.Offer.Folder, o.Offer.Sockets(name))
		found, err := filepath.Glob(pattern)
		answered := err == nil && slices.ContainsFunc(found, func(path string) bool { return answers(ctx, path) == nil })
		if !answered {
			all = append(all, fail(check, "start multi-enid run; else "+remedy, "resource %s is not served: nobody answers at %s", name, pattern)...)
		}
	}
	if all != nil {
		return all
	}
	return ok(check, "resources served: %d", len(c.Offer.Names))
}

// answers says whether somebody accepts connections at a socket.
func answers(ctx context.Context, path string) error {
	conn, err := status.Dial(ctx, path)
	if err != nil {
		return err
	}
	return conn.Close()
}
