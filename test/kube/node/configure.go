package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// containerdConfig is for containerd 1.6+. Without CAP_SYS_RESOURCE restrict_oom_score_adj is needed; native allows overlays.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`

// kubeletConfig has short periods, no checks of disks and images, and any cgroups. oomScoreAdj: see containerdConfig.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
port: 10250
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /%s
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://%s
imageServiceEndpoint: unix://%[3]s
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: "50Mi"}
imageGCHighThresholdPercent: 100
oomScoreAdj: 0
resolvConf: ""
podLogsDir: /var/lib/node/pod-logs
volumePluginDir: /var/lib/node/volume-plugins
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 10s
syncFrequency: 5s
rotateCertificates: false
serverTLSBootstrap: false
registerNode: true
`

// podNetwork connects pods to the node, and to nothing else.
const podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {
    "type": "host-local", "ranges": [[{"subnet": "10.89.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/node/ipam"}}
]}
`

func (n *Node) configure(context.Context) error {
	for path, content := range map[string]string{
		n.file("containerd.toml"):                     fmt.Sprintf(containerdConfig, containerdSocket, PauseImage, CNIBinDir, CNIConfDir),
		n.file("kubelet.yaml"):                        fmt.Sprintf(kubeletConfig, IP, cgroupName(os.Getenv(partEnv)), containerdSocket),
		filepath.Join(CNIConfDir, "10-pods.conflist"): podNetwork,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return copyPlugins()
}

func copyPlugins() error {
	repo, err := nstest.Repo()
	if err != nil {
		return err
	}
	plugins, err := filepath.Glob(filepath.Join(repo, "bin", "cni", "*"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(CNIBinDir, 0o755); err != nil {
		return err
	}
	for _, p := range plugins {
		program, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(CNIBinDir, filepath.Base(p)), program, 0o755); err != nil {
			return err
		}
	}
	return nil
}
