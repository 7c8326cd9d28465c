package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/test/deviceplugin/answers"
)

const deviceInfoDir = "/var/run/k8s.cni.cncf.io/devinfo/dp"

// DeviceInfo is the path of a device's device-info file.
func DeviceInfo(resource, pci string) string {
	return filepath.Join(deviceInfoDir, strings.ReplaceAll(resource, "/", "-")+"-"+pci+"-device.json")
}

// WantAnswer compares an answer and the device-info file with those of the SR-IOV device plugin in a measured case of one device.
func WantAnswer(t testing.TB, got *deviceapi.ContainerAllocateResponse, name, resource, pci string) {
	t.Helper()
	all := answers.Load(t).Cases
	i := slices.IndexFunc(all, func(c answers.Case) bool { return c.Case == name })
	if i < 0 || len(all[i].Steps) < 2 || len(all[i].Steps[1].Answer) != 1 {
		t.Fatalf("no case %q with one answer was measured", name)
	}
	here, step := renames(t, all[i], resource, pci), all[i].Steps[1]
	want := answers.Container{Envs: map[string]string{}}
	for name, value := range step.Answer[0].Envs {
		want.Envs[here(name)] = here(value)
	}
	for _, d := range step.Answer[0].Devices {
		want.Devices = append(want.Devices, answers.Node{Host: here(d.Host), Container: here(d.Container), Permissions: d.Permissions})
	}
	containers, err := answers.Containers(&deviceapi.AllocateResponse{ContainerResponses: []*deviceapi.ContainerAllocateResponse{got}})
	Must(t, err)
	if diff := cmp.Diff([]answers.Container{want}, containers); diff != "" {
		t.Errorf("answer for %s (-the SR-IOV device plugin's +ours):\n%s", pci, diff)
	}
	if len(step.Files) != 1 {
		t.Errorf("case %q has %d device-info files, want one", name, len(step.Files))
	}
	for _, f := range step.Files {
		content, err := os.ReadFile(DeviceInfo(resource, pci))
		if err != nil || string(content) != here(f.Content) {
			t.Errorf("device-info file: %v, %q, want %q", err, content, here(f.Content))
		}
	}
}

// renames returns a function that puts this machine's resource, device and group in the place of a case's.
func renames(t testing.TB, c answers.Case, resource, pci string) func(string) string {
	t.Helper()
	variable := func(resource string) string {
		return strings.ToUpper(strings.NewReplacer("/", "_", ".", "_").Replace(resource))
	}
	was := c.Functions[0]
	pairs := []string{was.Address, pci, variable(c.Steps[0].Pools[0].Resource), variable(resource)}
	if was.IOMMUGroup != "" {
		target, err := os.Readlink(filepath.Join(Devices, pci, "iommu_group"))
		Must(t, err)
		pairs = append(pairs, "/dev/vfio/"+was.IOMMUGroup, "/dev/vfio/"+filepath.Base(target))
	}
	return strings.NewReplacer(pairs...).Replace
}
