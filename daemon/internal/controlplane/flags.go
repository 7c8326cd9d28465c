package controlplane

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/logs"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/control"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
)

// flags are the command line of controller.
type flags struct {
	kubeconfig, namespace, identity, region string
	qps                                     float64
	burst                                   int
	leakSweep, adopt, listen                string
	forceDetachAfter                        time.Duration
	log                                     logs.Flags
}

// The values of --leak-sweep and --adopt.
const (
	sweepDelete = "delete"
	sweepReport = "report"
	sweepOff    = "off"
	adoptNone   = "none"
	adoptPublic = "public"
)

// Limits of --ec2-qps and --ec2-burst. EC2's own buckets are smaller than these in every account.
const (
	maxQPS   = 100
	maxBurst = 1000
)

// add defines the flags. Their texts are for people who have not read the documents.
func (c *flags) add(f *pflag.FlagSet, getenv func(string) string) {
	addReach(f, getenv, &c.kubeconfig, &c.namespace, &c.region)
	f.StringVar(&c.identity, "identity", getenv("POD_NAME"), "`Name` by which the Lease shows this replica. Defaults to $POD_NAME, else to the host name.")
	f.Float64Var(&c.qps, "ec2-qps", 4, "Largest `number` of calls a second for each EC2 action. The controller slows down by itself when EC2 throttles it.")
	f.IntVar(&c.burst, "ec2-burst", 20, "Largest `number` of calls of one EC2 action at once, after a rest.")
	f.StringVar(&c.leakSweep, "leak-sweep", sweepDelete,
		"How to treat detached ENIs that this cluster made and no NodeENI needs: `delete` them once two looks have seen them so, 10 minutes apart; report them in "+
			"log and metrics; or off.")
	f.StringVar(&c.adopt, "adopt", adoptNone,
		"Whose ENIs to take over: `none`, or public for the aws-multi-eni-controller's. Scale that one to 0 before. Nothing is detached.")
	f.DurationVar(&c.forceDetachAfter, "force-detach-after", 0,
		"After which `duration` to force a detachment that EC2 does not finish. Its pods have released the ENI by then. 0 never forces.")
	f.StringVar(&c.listen, "listen", control.DefaultListen, "`Address` and port of metrics, healthz and readyz; off for none.")
	c.log.Add(f)
}

// addReach defines the flags that doctor --controller has too.
func addReach(f *pflag.FlagSet, getenv func(string) string, kubeconfig, namespace, region *string) {
	if f.Lookup("kubeconfig") == nil {
		f.StringVar(kubeconfig, "kubeconfig", "", "Kubeconfig `file` to reach the API server. Defaults to the pod's service account.")
	}
	f.StringVar(namespace, "namespace", getenv("POD_NAMESPACE"), "`Namespace` of the controller, where its Lease is. Defaults to $POD_NAMESPACE.")
	f.StringVar(region, "region", cmp.Or(getenv("AWS_REGION"), getenv("AWS_DEFAULT_REGION")),
		"AWS `region` of the cluster. Defaults to $AWS_REGION, else to the region of the instance's metadata.")
}

// complete has shells complete the flags that have few values.
func (c *flags) complete(cmd *cobra.Command) {
	cli.Offer(cmd, "leak-sweep", sweepDelete, sweepReport, sweepOff)
	cli.Offer(cmd, "adopt", adoptNone, adoptPublic)
	c.log.Complete(cmd)
}

// check fills in the defaults that need the host, and returns all faults.
func (c *flags) check() error {
	errs := []error{
		checkNamespace(c.namespace), cli.OneOf("leak-sweep", c.leakSweep, sweepDelete, sweepReport, sweepOff), cli.OneOf("adopt", c.adopt, adoptNone, adoptPublic),
	}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.identity == "" {
		name, err := os.Hostname()
		if err != nil {
			fault("--identity %q: not given, and the host has no name: %w", "", err)
		}
		c.identity = name
	}
	if !(c.qps > 0 && c.qps <= maxQPS) { // NaN too
		fault("--ec2-qps %v: want more than 0, and %d at most, such as 4", c.qps, maxQPS)
	}
	if c.burst < 1 || c.burst > maxBurst {
		fault("--ec2-burst %d: want 1 to %d, such as 20", c.burst, maxBurst)
	}
	if c.forceDetachAfter < 0 {
		fault("--force-detach-after %v: want 0 for never, or a duration such as 30m", c.forceDetachAfter)
	}
	if c.listen != "" && c.listen != web.Off {
		if _, _, err := net.SplitHostPort(c.listen); err != nil {
			fault("--listen %q: want an address and a port such as %s, or off", c.listen, control.DefaultListen)
		}
	}
	return errors.Join(errs...)
}

func checkNamespace(name string) error {
	if name == "" {
		return errors.New(`--namespace "": want the controller's namespace, such as kube-system; in a pod set POD_NAMESPACE from fieldRef metadata.namespace`)
	}
	return nil
}
