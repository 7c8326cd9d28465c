package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/demo/terminal"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	root     = "/run/demo"
	manifest = root + "/nodeenis"
	config   = root + "/pcidp/config.json"
	confDir  = root + "/net.d"
)

// The ENIs of the node: the primary, and one for each of conf/nodeenis.
var (
	primary = nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: "02:00:00:00:00:05"}
	eniA    = nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:06"}
	eniB    = nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:07"}
	eniC    = nstest.ENI{PCI: "0000:00:08.0", Name: "eth3", MAC: "02:00:00:00:00:08"}
)

type stage struct {
	*terminal.Story
	node   *nstest.Node
	imds   *http.Server
	daemon *exec.Cmd
	log    bytes.Buffer // of the daemon, read after its end
}

func newStage(ctx context.Context) (*stage, error) {
	s := &stage{Story: &terminal.Story{Ctx: ctx}}
	if err := sharedRun(); err != nil {
		return nil, err
	}
	var err error
	if s.node, err = nstest.NewNode(root); err != nil {
		return nil, err
	}
	for _, e := range []nstest.ENI{primary, eniA, eniB, eniC} {
		if err := s.node.Attach(e); err != nil {
			return nil, err
		}
	}
	if err := s.node.AddPeerAddress("10.0.1.1/24"); err != nil {
		return nil, err
	}
	endpoint, err := s.serveIMDS()
	if err != nil {
		return nil, err
	}
	repo, err := nstest.Repo()
	if err != nil {
		return nil, err
	}
	if err := copyFolder(filepath.Join(repo, "conf/nodeenis"), manifest); err != nil {
		return nil, err
	}
	bin := filepath.Join(repo, "bin")
	s.Env = append(os.Environ(),
		"PATH="+strings.Join([]string{bin, bin + "/tools", os.Getenv("PATH"), "/usr/sbin", "/sbin"}, ":"),
		"CNI_PATH="+bin+":"+bin+"/cni", "NETCONFPATH="+confDir, "CNI_IFNAME=net1",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT="+endpoint, "NODE_NAME=demo-node")
	for _, pod := range []string{"pod-a", "pod-b"} {
		if err := nstest.NewNetns("/run/netns/" + pod); err != nil {
			return nil, err
		}
	}
	return s, writeNetconf()
}

// sharedRun puts /run into a peer group, as systemd does, so that the daemon sees mounts of pods' namespaces.
func sharedRun() error {
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make /run a shared mount: %w", err)
	}
	return nil
}

func (s *stage) serveIMDS() (string, error) {
	state := fakeimds.State{InstanceID: "i-0123456789abcdef0"}
	for i, e := range []nstest.ENI{primary, eniA, eniB, eniC} {
		state.ENIs = append(state.ENIs, fakeimds.ENI{
			ID: fmt.Sprintf("eni-0a1b2c3d4e5f6000%d", i), MAC: e.MAC, Primary: i == 0, DeviceIndex: i,
			SubnetID: fmt.Sprintf("subnet-0a1b2c3d4e5f6000%d", i), SubnetIPv4CIDR: fmt.Sprintf("10.0.%d.0/24", i),
			IPv4s: []string{fmt.Sprintf("10.0.%d.15", i)},
		})
	}
	l, err := (&net.ListenConfig{}).Listen(s.Ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("start the metadata service: %w", err)
	}
	s.imds = &http.Server{Handler: fakeimds.New(fakeimds.Config{State: state}), ReadHeaderTimeout: time.Second}
	go s.imds.Serve(l) //nolint:errcheck // ends with the demo
	return "http://" + l.Addr().String(), nil
}

func copyFolder(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

const netconf = `{
  "cniVersion": "1.1.0",
  "name": "dataplane-a",
  "plugins": [{
    "type": "multi-eni",
    "select": {"nodeENI": "dataplane-a"},
    "ipam": {"type": "eni-ipam"},
    "sysfs": "` + root + `/sys"
  }]
}
`

func writeNetconf() error {
	if err := os.MkdirAll(confDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(confDir, "dataplane-a.conflist"), []byte(netconf), 0o600)
}

func phases(want map[string]nodestate.Phase) bool {
	inv, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath)
	if err != nil || len(inv.Devices) != len(want) {
		return false
	}
	for _, d := range inv.Devices {
		if want[d.NodeENI] != d.Phase {
			return false
		}
	}
	return true
}

func (s *stage) status() string {
	cmd := exec.CommandContext(s.Ctx, "/bin/sh", "-c", "multi-enid status -o json")
	cmd.Env = s.Env
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), `"live"`) {
		return ""
	}
	return string(out)
}

func (s *stage) podSeen() bool     { return strings.Contains(s.status(), `"state": "complete"`) }
func (s *stage) problemSeen() bool { return strings.Contains(s.status(), storyProblem) }

func (s *stage) problemOver() bool {
	status := s.status()
	return status != "" && !strings.Contains(status, storyProblem) && !strings.Contains(status, noIOMMU)
}

func configHas(words ...string) bool {
	data, err := os.ReadFile(config)
	return err == nil && terminal.Contains("", string(data), words) == nil
}

func (s *stage) startDaemon() error {
	args := []string{"run", "--nodeeni-source=dir:" + manifest, "--pcidp-config=" + config, "--sysfs=" + root + "/sys", "--restart=none"}
	fmt.Printf("   $ multi-enid %s &\n", strings.Join(args, " "))
	repo, err := nstest.Repo()
	if err != nil {
		return err
	}
	s.daemon = exec.CommandContext(s.Ctx, filepath.Join(repo, "bin/multi-enid"), args...)
	s.daemon.Env, s.daemon.Stdout, s.daemon.Stderr = s.Env, &s.log, &s.log
	s.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return s.daemon.Start()
}

func (s *stage) stopDaemon() error {
	if s.daemon == nil || s.daemon.Process == nil {
		return nil
	}
	daemon := s.daemon
	s.daemon = nil
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := daemon.Wait(); err != nil {
		return fmt.Errorf("multi-enid: %w\n%s", err, s.log.String())
	}
	return nil
}

func (s *stage) close() {
	if err := s.stopDaemon(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	s.imds.Close()
}
