package deviceplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// vfioContainer is VFIO's own node, which a program needs beside its group's.
const vfioContainer = "/dev/vfio/vfio"

// allocator remembers earlier answers.
type allocator struct {
	mu  sync.Mutex
	uio map[string]string // the uio device of the last answer, by address
}

// handout is one device in an answer.
type handout struct {
	nodes []*deviceapi.DeviceSpec
	info  map[string]map[string]string // by provider
}

// Allocate implements the device-plugin API.
func (s *server) Allocate(_ context.Context, r *deviceapi.AllocateRequest) (*deviceapi.AllocateResponse, error) {
	var out deviceapi.AllocateResponse
	for _, c := range r.GetContainerRequests() {
		one, err := s.container(c.GetDevicesIds())
		if err != nil {
			return nil, err
		}
		out.ContainerResponses = append(out.ContainerResponses, one)
	}
	s.log.WithField("response", out.String()).Info("allocated")
	return &out, nil
}

func (s *server) container(ids []string) (*deviceapi.ContainerAllocateResponse, error) {
	var out deviceapi.ContainerAllocateResponse
	info := map[string]map[string]map[string]string{}
	for _, id := range ids {
		if !slices.Contains(s.devices, device.PCIAddress(id)) {
			return nil, status.Errorf(codes.InvalidArgument, "device %q is not one of %s's %q", id, s.resource, s.devices)
		}
		h, err := s.hand(id)
		if err != nil {
			return nil, err
		}
		info[id] = h.info
		for _, n := range h.nodes {
			if !slices.ContainsFunc(out.Devices, func(o *deviceapi.DeviceSpec) bool { return o.GetHostPath() == n.GetHostPath() }) {
				out.Devices = append(out.Devices, n)
			}
		}
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	prefix, name, _ := strings.Cut(s.resource, "/")
	variable := strings.ToUpper(strings.ReplaceAll(fmt.Sprintf("PCIDEVICE_%s_%s", prefix, name), ".", "_"))
	out.Envs = map[string]string{variable: strings.Join(ids, ","), variable + "_INFO": string(b)}
	for _, id := range ids {
		if err := writeInfo(infoPath(s.info, s.resource, id), id); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// hand returns the answer for one device by its driver at the start, and by its group now.
func (s *server) hand(id string) (handout, error) {
	h := handout{info: map[string]map[string]string{"generic": {"deviceID": id}}}
	for _, key := range s.keys {
		if key != "excludeTopology" {
			return h, status.Errorf(codes.Unimplemented, "answers of an entry with %s are not known here", key)
		}
	}
	switch s.functions[id].Driver {
	case "vfio-pci":
		group, noIOMMU, err := s.group(id)
		if err != nil {
			return h, status.Errorf(codes.FailedPrecondition, "device %q has no IOMMU group: %v", id, err)
		}
		host, inside := "/dev/vfio/"+group, "/dev/vfio/"+group
		if noIOMMU {
			host = "/dev/vfio/noiommu-" + group
		}
		h.nodes = []*deviceapi.DeviceSpec{deviceNode(vfioContainer, vfioContainer), deviceNode(host, inside)}
		h.info["vfio"] = map[string]string{"mount": vfioContainer, "dev-mount": inside}
	case "igb_uio":
		path, err := s.uioDevice(id)
		if err != nil {
			return h, status.Errorf(codes.FailedPrecondition, "device %q has no uio device: %v", id, err)
		}
		h.nodes = []*deviceapi.DeviceSpec{deviceNode(path, path)}
		h.info["uio"] = map[string]string{}
		s.mu.Lock()
		defer s.mu.Unlock()
		if last := s.uio[id]; last != "" {
			h.info["uio"]["mount"] = last
		}
		s.uio[id] = path
	}
	return h, nil
}

func deviceNode(host, container string) *deviceapi.DeviceSpec {
	return &deviceapi.DeviceSpec{HostPath: host, ContainerPath: container, Permissions: "rw"}
}

// group returns the function's IOMMU group, and whether vfio made it for want of an IOMMU (vfio_noiommu_group_alloc).
func (s *server) group(id string) (number string, noIOMMU bool, err error) {
	link := filepath.Join(s.sysfs.Root(), "bus/pci/devices", id, "iommu_group")
	target, err := os.Readlink(link)
	if err != nil {
		return "", false, err
	}
	name, err := os.ReadFile(filepath.Join(link, "name"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	return filepath.Base(target), strings.TrimSpace(string(name)) == "vfio-noiommu", nil
}

func (s *server) uioDevice(id string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(s.sysfs.Root(), "bus/pci/devices", id, "uio"))
	if err != nil {
		return "", err
	}
	if len(entries) == 0 {
		return "", errors.New("its folder is empty")
	}
	return "/dev/" + entries[0].Name(), nil
}

// infoPath is the path of a device-info file.
func infoPath(dir, resource, id string) string {
	return filepath.Join(dir, strings.ReplaceAll(resource, "/", "-")+"-"+id+"-device.json")
}

// writeInfo writes a device-info file anew. The plugin makes a missing folder without any permission.
func writeInfo(path, id string) error {
	var info struct {
		Type    string `json:"type"`
		Version string `json:"version"`
		PCI     struct {
			Address string `json:"pci-address"`
		} `json:"pci"`
	}
	info.Type, info.Version, info.PCI.Address = "pci", "1.1.0", id
	b, err := json.Marshal(info)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0)
	}
	if err == nil {
		err = removeFile(path)
	}
	if err == nil {
		err = os.WriteFile(path, b, 0o444)
	}
	if err != nil {
		return fmt.Errorf("write device-info file: %w", err)
	}
	return nil
}
