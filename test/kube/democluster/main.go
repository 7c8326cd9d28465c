// Command democluster shows the life of an ENI with a real control plane: etcd, kube-apiserver, the controller and the daemon of one
// node. EC2 and the metadata service are stand-ins. It needs neither root nor AWS, tells the story with real commands and their real
// output, checks every step, and leaves nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/demo/terminal"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	name      = "demo-cluster"
	insideEnv = "MULTI_ENI_DEMO_CLUSTER_INSIDE"
	timeout   = 5 * time.Minute
)

const usage = `usage: demo-cluster                          tell the story
       demo-cluster ec2 interfaces           as: aws ec2 describe-network-interfaces
       demo-cluster ec2 calls                calls so far that change something, as CloudTrail lists them
`

func main() {
	if err := demo(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func demo() error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(os.Args) == 3 && os.Args[1] == "ec2":
		return askCloud(ctx, os.Stdout, os.Args[2])
	case len(os.Args) > 1:
		err := terminal.Look(ctx, os.Stdout, os.Args[1:])
		if errors.Is(err, terminal.ErrUsage) {
			return fmt.Errorf("%w\n%s%s", err, usage, fmt.Sprintf(terminal.Usage, name))
		}
		return err
	case os.Getenv(insideEnv) != "":
		return inside(ctx)
	}
	return outside(ctx)
}

func outside(ctx context.Context) error {
	cmd := nstest.Command(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	err := cmd.Run()
	if denied := nstest.Denied(err); denied != nil {
		return fmt.Errorf("%w; try: sudo make demo-cluster", denied)
	}
	if err != nil {
		return fmt.Errorf("the story did not hold: %w", err)
	}
	return nil
}

func inside(ctx context.Context) error {
	if err := errors.Join(nstest.Prepare(), plane.Uplink()); err != nil {
		return err
	}
	s := newStage(ctx)
	defer s.close()
	if err := s.set(); err != nil {
		return err
	}
	return s.tell()
}
