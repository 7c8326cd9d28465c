package deviceplugin

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// vfioContainer is the device through which programs open VFIO groups.
const vfioContainer = "/dev/vfio/vfio"

// answerFor is the SR-IOV device plugin's answer to Allocate, as test/deviceplugin/answers has it measured: the variables
// and the device nodes of a container. It reads sysfs each time, since a reboot numbers IOMMU groups anew. Releases of
// that plugin up to v3.11.0 give dev-mount as it was at the Allocate before; this gives the present one. A device node
// that is unknown is an error here, and is left out there.
func answerFor(name device.ResourceName, devices []offer.Device, from Devices) (*deviceapi.ContainerAllocateResponse, error) {
	answer := &deviceapi.ContainerAllocateResponse{Envs: map[string]string{}}
	info := map[string]map[string]map[string]string{}
	var ids []string
	for _, d := range devices {
		nodes, about, err := nodesOf(d, from)
		if err != nil {
			return nil, err
		}
		ids, info[d.ID.String()] = append(ids, d.ID.String()), about
		for _, n := range nodes {
			if !slices.ContainsFunc(answer.Devices, func(o *deviceapi.DeviceSpec) bool { return o.HostPath == n.HostPath }) {
				answer.Devices = append(answer.Devices, n)
			}
		}
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	prefix, suffix := name.Split()
	variable := strings.ToUpper(strings.ReplaceAll("PCIDEVICE_"+prefix+"_"+suffix, ".", "_"))
	answer.Envs[variable], answer.Envs[variable+"_INFO"] = strings.Join(ids, ","), string(b)
	return answer, nil
}

// nodesOf returns the device nodes that a device's program needs, and the information about the device.
func nodesOf(d offer.Device, from Devices) ([]*deviceapi.DeviceSpec, map[string]map[string]string, error) {
	about := map[string]map[string]string{"generic": {"deviceID": d.ID.String()}}
	fn, err := from.PCI(d.ID)
	if err != nil {
		return nil, nil, err
	}
	if fn.Driver != d.Driver {
		return nil, nil, fmt.Errorf("device %s has the driver %q by now, not %q; delete the pod, and its owner makes a new one", d.ID, fn.Driver, d.Driver)
	}
	switch d.Driver {
	case "vfio-pci":
		group, noIOMMU, err := from.VFIOGroup(d.ID)
		if err != nil {
			return nil, nil, err
		}
		host, inside := "/dev/vfio/"+group, "/dev/vfio/"+group
		if noIOMMU {
			host = "/dev/vfio/noiommu-" + group
		}
		about["vfio"] = map[string]string{"mount": vfioContainer, "dev-mount": inside}
		return []*deviceapi.DeviceSpec{node(vfioContainer, vfioContainer), node(host, inside)}, about, nil
	case "igb_uio":
		name, err := from.UIODevice(d.ID)
		if err != nil {
			return nil, nil, err
		}
		about["uio"] = map[string]string{"mount": "/dev/" + name}
		return []*deviceapi.DeviceSpec{node("/dev/"+name, "/dev/"+name)}, about, nil
	}
	return nil, about, nil
}

func node(host, inside string) *deviceapi.DeviceSpec {
	return &deviceapi.DeviceSpec{HostPath: host, ContainerPath: inside, Permissions: "rw"}
}
