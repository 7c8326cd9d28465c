// Package answers has requests to the SR-IOV network device plugin on made-up machines, and its measured answers.
// answers.json names the release and the way of measuring.
package answers

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

//go:embed answers.json
var file []byte

// atLeast guards against a truncated answers.json.
const atLeast = 25

// Answers is the content of answers.json.
type Answers struct {
	Source Source `json:"source"`
	// Common are the answers that each pool gave in each case.
	Common Common `json:"common"`
	Cases  []Case `json:"cases"`
}

// Source says where the answers come from, in words.
type Source struct {
	Project, Release, Commit, Method string
	// Releases are older releases with their differences from the answers.
	Releases map[string]string
	// Read are facts from the plugin's sources that no case shows. The cases are all measured.
	Read []string
}

// Common are the answers that are the same everywhere.
type Common struct {
	Type     string   `json:"type"`
	Versions []string `json:"versions"`
	// PreStart and PreferredAllocation are the options.
	PreStart            bool `json:"preStart"`
	PreferredAllocation bool `json:"preferredAllocation"`
	// Preferred are the devices that GetPreferredAllocation names, of a pool with devices.
	Preferred []string `json:"preferred"`
}

// Case is a machine, a config, and steps in their order.
type Case struct {
	Case string `json:"case"`
	// Legacy: the node lacks plugins_registry, so the plugin registers at kubelet.sock in device-plugins.
	Legacy bool `json:"legacy,omitempty"`
	// Args are the plugin's arguments, and Config is its config.
	Args   []string        `json:"args,omitempty"`
	Config json.RawMessage `json:"config"`
	// Functions and Lines are the machine's sysfs, see package sysfstree. Without are paths that are missing there.
	Functions []sysfstree.Function `json:"functions"`
	Lines     []string             `json:"lines,omitempty"`
	Without   []string             `json:"without,omitempty"`
	// Folder says whether the folder of device-info files exists at first, and Files are those in it.
	Folder bool            `json:"folder"`
	Files  map[string]File `json:"files,omitempty"`
	Steps  []Step          `json:"steps"`
}

// Kinds of steps.
const (
	Start    = "start"    // run the plugin
	Allocate = "allocate" // call Allocate
	Change   = "change"   // change the machine: Unplug, Bind, Grow
	Kubelet  = "kubelet"  // start another kubelet, which removes all sockets
	Gone     = "gone"     // stop the kubelet, and remove all sockets
	Stop     = "stop"     // send SIGTERM
	Kill     = "kill"     // send SIGKILL
)

// Step is something that happens to the plugin, and the outcome.
type Step struct {
	Do string `json:"do"`

	// Unplug are removed functions, Bind are functions with their new driver, Remove are removed paths, and Grow are new
	// lines of sysfs.
	Unplug []string          `json:"unplug,omitempty"`
	Bind   map[string]string `json:"bind,omitempty"`
	Remove []string          `json:"remove,omitempty"`
	Grow   []string          `json:"grow,omitempty"`

	// Resource is the pool to allocate from, and Request are the device IDs for each container.
	Resource string     `json:"resource,omitempty"`
	Request  [][]string `json:"request,omitempty"`
	// Unfit says why a careful plugin refuses this request: the answer lacks something, or the device is another's.
	Unfit string `json:"unfit,omitempty"`
	// Stale says how the answer depends on an earlier state of the machine. A plugin without memory answers otherwise.
	Stale string `json:"stale,omitempty"`
	// Answer has a container for each of Request. Error is the name of a refusal's gRPC code instead.
	Answer []Container `json:"answer,omitempty"`
	Error  string      `json:"error,omitempty"`

	// Pools are the plugin's pools after a start, sorted by resource.
	Pools []Pool `json:"pools,omitempty"`
	// Status is the exit status, if the plugin ended by itself.
	Status *int `json:"status,omitempty"`
	// Sockets are the sockets that are left after the end.
	Sockets []string `json:"sockets,omitempty"`
	// Files are the device-info files after the step, by name.
	Files map[string]File `json:"files"`
	// Folder is the mode of their folder, if the plugin made it in this step.
	Folder string `json:"folder,omitempty"`
}

// Pool is a resource as the kubelet sees it.
type Pool struct {
	Resource string `json:"resource"`
	// Socket is its name, in plugins_registry or in device-plugins.
	Socket  string   `json:"socket"`
	Devices []Device `json:"devices"`
}

// Device is an entry of ListAndWatch's first list.
type Device struct {
	ID     string `json:"id"`
	Health string `json:"health"`
	// NUMA are the nodes of its topology. Nil is a device without topology.
	NUMA []int64 `json:"numa,omitempty"`
}

// Container is the answer for one container. Every other field of the API was empty.
type Container struct {
	Envs    map[string]string `json:"envs"`
	Devices []Node            `json:"devices,omitempty"`
}

// Node is a device node.
type Node struct {
	Host        string `json:"host"`
	Container   string `json:"container"`
	Permissions string `json:"permissions"`
}

// File is a file with its mode in octal.
type File struct {
	Mode    string `json:"mode"`
	Content string `json:"content"`
}

// Load reads answers.json.
func Load(t testing.TB) Answers {
	t.Helper()
	var a Answers
	d := json.NewDecoder(bytes.NewReader(file))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil || len(a.Cases) < atLeast {
		t.Fatalf("read answers: %d cases, want %d or more; %v", len(a.Cases), atLeast, err)
	}
	return a
}

// Tree makes the case's sysfs in a new folder of the test, and returns its root.
func (c Case) Tree(t testing.TB) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "sys")
	must(t, c.Build(root))
	return root
}

// Build makes the case's sysfs below root.
func (c Case) Build(root string) error {
	if err := os.MkdirAll(filepath.Join(root, "bus/pci/devices"), 0o755); err != nil {
		return err
	}
	for _, f := range c.Functions {
		if err := sysfstree.Plug(root, f); err != nil {
			return err
		}
	}
	return Step{Grow: c.Lines, Remove: c.Without}.Apply(root)
}

// Apply makes a step's changes of the sysfs at root.
func (s Step) Apply(root string) error {
	for _, address := range s.Unplug {
		if err := sysfstree.Unplug(root, address); err != nil {
			return err
		}
	}
	for address, driver := range s.Bind {
		if err := sysfstree.Bind(root, address, driver); err != nil {
			return err
		}
	}
	for _, path := range s.Remove {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	for _, line := range s.Grow {
		if err := sysfstree.Grow(root, line); err != nil {
			return err
		}
	}
	return nil
}

// Containers is an answer in the form of this package. It fails on mounts, annotations and CDI devices, which no answer has.
func Containers(r *deviceapi.AllocateResponse) ([]Container, error) {
	var out []Container
	for _, c := range r.GetContainerResponses() {
		if len(c.GetMounts()) > 0 || len(c.GetAnnotations()) > 0 || len(c.GetCdiDevices()) > 0 {
			return nil, fmt.Errorf("an answer has mounts, annotations or CDI devices: %v", c)
		}
		one := Container{Envs: c.GetEnvs()}
		for _, d := range c.GetDevices() {
			one.Devices = append(one.Devices, Node{d.GetHostPath(), d.GetContainerPath(), d.GetPermissions()})
		}
		out = append(out, one)
	}
	return out, nil
}

// Devices are the devices of a list in the form of this package, sorted.
func Devices(devices []*deviceapi.Device) []Device {
	out := []Device{}
	for _, d := range devices {
		one := Device{ID: d.GetID(), Health: d.GetHealth()}
		if d.GetTopology() != nil {
			one.NUMA = []int64{}
		}
		for _, n := range d.GetTopology().GetNodes() {
			one.NUMA = append(one.NUMA, n.GetID())
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Device) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
