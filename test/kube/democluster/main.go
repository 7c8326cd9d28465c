// Command democluster shows the life of an ENI with a real control plane: etcd, kube-apiserver, the controller and the daemon of one
// node. EC2 and the metadata service are stand-ins. It needs neither root nor AWS, tells the story with real commands and their real
// output, checks every step, and leaves nothing.
package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/demo/terminal"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const usage = `       demo-cluster ec2 interfaces           as: aws ec2 describe-network-interfaces
       demo-cluster ec2 calls                calls so far that change something, as CloudTrail lists them
`

func main() {
	terminal.Program{Name: "demo-cluster", Timeout: 5 * time.Minute, Tell: tell, Other: other, Usage: usage}.Main()
}

func other(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "ec2" {
		return askCloud(ctx, os.Stdout, args[1])
	}
	return terminal.ErrUsage
}

func tell(ctx context.Context) error {
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
