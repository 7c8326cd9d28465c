// Command local (multi-eni-local) simulates EC2 on a node without AWS, to try the product: ENIs that are veth pairs,
// a sysfs tree in which they are PCI functions, and an instance metadata service that lists them. All of it ends
// with the process.
//
// The other ends of the pairs are ports of one bridge in a network namespace of the process: the VPC. Over it pods
// of this node reach each other, and the router of the subnet, which answers to ping and leads nowhere.
//
// The plugin reads the sysfs tree by the node's policy, which the installer writes. This program sets its own tree
// there, and the kernel's again when it ends, so that the uninstaller finds the policy as it was installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const (
	headerTimeout = 5 * time.Second
	// policyInterval is the polling interval of the policy: the installer may write it late, or again.
	policyInterval = time.Second
)

type options struct {
	node, dir, policy, listen string
	enis                      int
}

func main() {
	var o options
	flag.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "`name` of this node; ids and MACs are made of it")
	flag.StringVar(&o.dir, "dir", "/run/multi-eni-local", "`folder` in which the sysfs tree is made")
	flag.StringVar(&o.policy, "policy", nodestate.DefaultPolicyPath, "the plugin's policy `file`, which is to name the tree")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:1338", "`address` of the metadata service")
	flag.IntVar(&o.enis, "enis", 2, "how many ENIs to make")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "multi-eni-local:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.node == "" || o.enis < 1 || o.enis > maxENIs {
		return fmt.Errorf("--node %q, --enis %d: want a name, and 1 to %d ENIs", o.node, o.enis, maxENIs)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("serve the metadata: %w", err)
	}
	world := newWorld(o.node, o.enis)
	tree, err := world.build(o.dir)
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	if err != nil {
		return err
	}
	for _, e := range world.enis {
		slog.Info("made ENI", "id", e.ID, "link", e.plug.Name, "mac", e.MAC, "subnet", e.SubnetID, "index", e.DeviceIndex, "address", e.IPv4s[0])
	}
	imds := &http.Server{ReadHeaderTimeout: headerTimeout, Handler: fakeimds.New(fakeimds.Config{
		State: world.metadata(), OnUnknown: func(request string) { slog.Info("the metadata service does not know", "request", request) },
	})}
	served := make(chan error, 1)
	go func() { served <- imds.Serve(l) }()
	pointed := policy{path: o.policy, sysfs: tree}
	defer func() { err = errors.Join(err, pointed.restore(), imds.Close()) }()
	tick := time.NewTicker(policyInterval)
	defer tick.Stop()
	for {
		if err := pointed.set(); err != nil {
			slog.Warn("cannot name the tree in the policy", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return fmt.Errorf("serve the metadata: %w", err)
		case <-tick.C:
		}
	}
}
