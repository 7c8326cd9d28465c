//go:build hostnet

package hostnet

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// imdsAddress is EC2's metadata service, which ec2-net-utils also asks.
const imdsAddress = "169.254.169.254"

func (h *host) daemon() *output {
	h.Helper()
	h.imds()
	for _, e := range []eni{owned, shared} {
		h.write("/run/nodeenis/"+e.name+".yaml", fmt.Sprintf("apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata: {name: %s}\nspec: {subnetID: "+
			"%s, deviceIndex: %d}\n", e.name, subnet(e), e.net))
	}
	o := h.start("multi-enid", binary(h, "multi-enid"), "run", "--nodeeni-source=dir:/run/nodeenis", "--sysfs="+sysTree, "--restart=none",
		"--pcidp-config=/run/pcidp/config.json", "--source-routing", "--listen=off", "--node-name=host", "--cni-bin-dir="+filepath.Join(repo(h), "bin"))
	h.eventually(settle, func() string {
		inv, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath)
		if err != nil {
			return err.Error()
		}
		for _, d := range inv.Devices {
			if d.Phase != nodestate.PhaseReady {
				return fmt.Sprintf("%s is %s", d.NodeENI, d.Phase)
			}
		}
		return map[bool]string{false: "no two devices"}[len(inv.Devices) == 2]
	})
	return o
}

func subnet(e eni) string { return fmt.Sprintf("subnet-0a1b2c3d4e5f6000%d", e.net) }

func (h *host) imds() {
	h.Helper()
	if h.metadata {
		return
	}
	h.metadata = true
	state := fakeimds.State{InstanceID: "i-0123456789abcdef0"}
	for _, e := range []eni{primary, owned, shared} {
		state.ENIs = append(state.ENIs, fakeimds.ENI{
			ID: fmt.Sprintf("eni-0a1b2c3d4e5f6000%d", e.net), MAC: e.mac, Primary: e == primary, DeviceIndex: e.net, SubnetID: subnet(e),
			SubnetIPv4CIDR: fmt.Sprintf("10.0.%d.0/24", e.net), IPv4s: []string{e.addr(), fmt.Sprintf("10.0.%d.100", e.net), fmt.Sprintf("10.0.%d.101", e.net),
				fmt.Sprintf("10.0.%d.102", e.net)},
		})
	}
	h.sh("ip addr add %s/32 dev lo", imdsAddress)
	l, err := net.Listen("tcp", imdsAddress+":80")
	h.do(err)
	server := &http.Server{Handler: fakeimds.New(fakeimds.Config{State: state}), ReadHeaderTimeout: time.Second}
	go server.Serve(l) //nolint:errcheck // ends with the process
}

func binary(h *host, name string) string {
	h.Helper()
	path, err := nstest.Binary(name)
	h.do(err)
	return path
}

func (h *host) verb(verb string, e eni, pod string) error {
	ipam := map[string]any{"type": "eni-ipam"}
	conf := map[string]any{
		"cniVersion": "1.1.0", "name": e.name, "type": "multi-eni", "select": map[string]any{"nodeENI": e.name}, "sysfs": sysTree,
		"ipam": ipam,
	}
	if e == shared {
		ipam["coolDown"] = 0
		conf["delegate"] = map[string]any{"type": "macvlan", "mode": "bridge"}
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	bin := filepath.Dir(binary(h, "multi-eni"))
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "multi-eni"))
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + pod, "CNI_NETNS=/run/netns/" + pod, "CNI_IFNAME=net1",
		"CNI_PATH=" + bin + ":" + bin + "/cni", "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(string(stdin))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", verb, err, out)
	}
	return nil
}

// pairs gives an ENI to pods in turn, with random pauses, and calls between. A refusal counts, and may be retried.
func (h *host) pairs(e eni, n int, pause time.Duration, between func(i int)) {
	h.Helper()
	var refusals []string
	pod := "pod-" + e.name
	h.do(nstest.NewNetns("/run/netns/" + pod))
	random := func(d time.Duration) time.Duration { return rand.N(max(d, 1)) }
	from := time.Now()
	for i := range n {
		if err := h.verb("ADD", e, pod); err != nil {
			refusals = append(refusals, fmt.Sprintf("pair %d after %s: %v", i, time.Since(from).Round(time.Millisecond), err))
		}
		if pause > 0 {
			time.Sleep(random(pause / 4))
		}
		if err := h.verb("DEL", e, pod); err != nil {
			h.Errorf("pair %d: %v", i, err)
		}
		between(i)
		if pause > 0 {
			time.Sleep(random(pause))
		}
	}
	h.refused(e, refusals, n)
}

func nothing(int) {}

func (h *host) sharing(e eni, n int) {
	h.Helper()
	var refusals []string
	for i := range n {
		pod := fmt.Sprintf("shared-%d", i)
		h.do(nstest.NewNetns("/run/netns/" + pod))
		if err := h.verb("ADD", e, pod); err != nil {
			refusals = append(refusals, fmt.Sprintf("pod %d: %v", i, err))
		}
		if i%2 == 0 {
			continue // it stays for a while
		}
		for _, p := range []string{pod, fmt.Sprintf("shared-%d", i-1)} {
			if err := h.verb("DEL", e, p); err != nil {
				h.Errorf("shared pod %s: %v", p, err)
			}
		}
	}
	h.refused(e, refusals, n)
}

func (h *host) refused(e eni, refusals []string, n int) {
	h.Helper()
	h.Logf("%s: %d of %d ADDs refused", e.name, len(refusals), n)
	if len(refusals) > 0 {
		h.Errorf("%s: %d of %d ADDs were refused; the first, and the last:\n%s\n%s", e.name, len(refusals), n, refusals[0], refusals[len(refusals)-1])
	}
}
