package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// delegateTimeout bounds the delegates of one call together; the runtime gives up after some minutes.
const delegateTimeout = 2 * time.Minute

type netconf struct {
	types.NetConf
	Default json.RawMessage `json:"default"`
	Device  json.RawMessage `json:"device"`
	Shared  json.RawMessage `json:"shared"`
	// Pods are netconfs in place of Shared, by the pod's name.
	Pods         map[string]json.RawMessage `json:"pods"`
	DataDir      string                     `json:"dataDir"`
	PodResources string                     `json:"podResources"`
}

type attachment struct {
	IfName string          `json:"ifname"`
	Conf   json.RawMessage `json:"conf"`
	// DeviceID is "" for eth0 and for the shared one.
	DeviceID string `json:"deviceID,omitempty"`
}

func parse(stdin []byte) (netconf, error) {
	var n netconf
	d := json.NewDecoder(bytes.NewReader(stdin))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return n, fmt.Errorf("decode netconf: %w", err)
	}
	for key, missing := range map[string]bool{
		"default": n.Default == nil, "device": n.Device == nil, "dataDir": n.DataDir == "", "podResources": n.PodResources == "",
	} {
		if missing {
			return n, fmt.Errorf("netconf: %s is needed", key)
		}
	}
	return n, nil
}

func add(a *skel.CmdArgs, stdout io.Writer) error {
	n, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), delegateTimeout)
	defer cancel()
	devices, err := allocated(ctx, n.PodResources, argument(a.Args, "K8S_POD_NAMESPACE"), argument(a.Args, "K8S_POD_NAME"))
	if err != nil {
		return err
	}
	all := []attachment{{IfName: a.IfName, Conf: n.Default}}
	for i, id := range devices {
		conf, err := withDevice(n.Device, id)
		if err != nil {
			return err
		}
		all = append(all, attachment{IfName: fmt.Sprintf("net%d", i+1), Conf: conf, DeviceID: id})
	}
	if conf := n.shared(argument(a.Args, "K8S_POD_NAME")); len(devices) == 0 && conf != nil {
		all = append(all, attachment{IfName: "net1", Conf: conf})
	}
	if err := keep(n.DataDir, a.ContainerID, all); err != nil {
		return err
	}
	var first types.Result
	for i, at := range all {
		result, err := at.run(ctx, a, n, libcni.CNI.AddNetwork)
		if err != nil {
			_ = remove(ctx, a, n, all[:i+1]) // the failed one too; DEL comes later, and goes by the file
			return fmt.Errorf("add %s: %w", at.IfName, err)
		}
		if i == 0 {
			first = result
		}
	}
	first, err = first.GetAsVersion(n.CNIVersion)
	if err != nil {
		return err
	}
	return first.PrintTo(stdout)
}

func (n netconf) shared(pod string) json.RawMessage {
	if conf, ok := n.Pods[pod]; ok {
		return conf
	}
	return n.Shared
}

func del(a *skel.CmdArgs) error {
	n, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), delegateTimeout)
	defer cancel()
	all, err := kept(n.DataDir, a.ContainerID)
	if errors.Is(err, os.ErrNotExist) { // ADD ended before it did anything, or DEL was here before
		return nil
	}
	if err != nil {
		return err
	}
	if err := remove(ctx, a, n, all); err != nil {
		return errors.Join(err, keepDeclared(n, a.ContainerID, all))
	}
	return forget(n.DataDir, a.ContainerID)
}

// keepDeclared keeps netconfs for the next DEL as the API server would give them: without the allocated devices.
func keepDeclared(n netconf, containerID string, all []attachment) error {
	for i := range all {
		if all[i].DeviceID != "" {
			all[i].Conf, all[i].DeviceID = n.Device, ""
		}
	}
	return keep(n.DataDir, containerID, all)
}

func remove(ctx context.Context, a *skel.CmdArgs, n netconf, all []attachment) error {
	var errs []error
	for _, at := range slices.Backward(all) {
		_, err := at.run(ctx, a, n, func(c libcni.CNI, ctx context.Context, p *libcni.PluginConfig, rt *libcni.RuntimeConf) (types.Result, error) {
			return nil, c.DelNetwork(ctx, p, rt)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", at.IfName, err))
		}
	}
	return errors.Join(errs...)
}

type verb func(libcni.CNI, context.Context, *libcni.PluginConfig, *libcni.RuntimeConf) (types.Result, error)

func (at attachment) run(ctx context.Context, a *skel.CmdArgs, n netconf, v verb) (types.Result, error) {
	conf, err := libcni.NetworkPluginConfFromBytes(at.Conf)
	if err != nil {
		return nil, err
	}
	rt := &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: a.Netns, IfName: at.IfName}
	for _, pair := range strings.Split(a.Args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			rt.Args = append(rt.Args, [2]string{key, value})
		}
	}
	if at.DeviceID != "" {
		rt.CapabilityArgs = map[string]any{"deviceID": at.DeviceID}
	}
	return v(libcni.NewCNIConfigWithCacheDir(filepath.SplitList(a.Path), filepath.Join(n.DataDir, "results"), nil), ctx, conf, rt)
}

func withDevice(conf json.RawMessage, id string) (json.RawMessage, error) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(conf))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("decode netconf: device: %w", err)
	}
	if fields == nil {
		return nil, errors.New("netconf: device must be an object")
	}
	fields["deviceID"], fields["pciBusID"] = id, id
	return json.Marshal(fields)
}

// argument returns a value of CNI_ARGS, or "".
func argument(args, name string) string {
	for _, pair := range strings.Split(args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok && key == name {
			return value
		}
	}
	return ""
}

func keptPath(dir, containerID string) string { return filepath.Join(dir, containerID+".json") }

func keep(dir, containerID string, all []attachment) error {
	b, err := json.Marshal(all)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(keptPath(dir, containerID), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep delegates: %w", err)
	}
	return nil
}

func kept(dir, containerID string) (all []attachment, err error) {
	b, err := os.ReadFile(keptPath(dir, containerID))
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	return all, err
}

func forget(dir, containerID string) error {
	err := os.Remove(keptPath(dir, containerID))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
