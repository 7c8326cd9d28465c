// Package attach carries out the CNI verbs of multi-eni and eni-ipam. ADD selects a device,
// holds it, moves it into the container's netns or runs a delegate, and configures it.
//
// The attachment record is the undo log: ADD writes it before the first effect. A failed ADD,
// a DEL, a GC, and an ADD that finds a dead attachment all reverse every effect from it.
package attach

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/addressing"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/delegation"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/giveback"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/hold"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/presence"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

const (
	verbTimeout = 2 * time.Minute  // the kubelet's limit for a sandbox (runtimeRequestTimeout)
	undoTimeout = 30 * time.Second // of a failed ADD, beyond verbTimeout if necessary
	recordWait  = 2 * time.Second  // bounds the wait for another verb of the same attachment
)

// Plugin carries out the verbs. The zero value is ready for use.
type Plugin struct {
	Exec       invoke.Exec             // nil runs other plugins as processes
	PolicyPath string                  // "" is nodestate.DefaultPolicyPath
	Before     func(step string) error // see steps.Steps; nil is allowed
}

// Funcs returns multi-eni's verbs, which end with ctx at the latest. Results go to stdout.
func (p *Plugin) Funcs(ctx context.Context, stdout io.Writer) skel.CNIFuncs {
	verb := p.verbs(parser{netconf.Parse, netconf.ParseLenient})
	return skel.CNIFuncs{
		Add:    verb(ctx, strict, printing(stdout, (*call).add)),
		Del:    verb(ctx, anything, (*call).del),
		Check:  verb(ctx, strict, checking((*call).check)),
		GC:     verb(ctx, lenient, (*call).gc),
		Status: verb(ctx, lenient, ready((*call).ready)),
	}
}

type verb func(*call, context.Context) error

func (p *Plugin) verbs(parse parser) func(context.Context, validation, verb) func(*skel.CmdArgs) error {
	return func(ctx context.Context, v validation, do verb) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error { return refusal.ToCNI(p.run(ctx, args, parse, v, do)) }
	}
}

// checking refuses a CHECK for a netconf before CNI 0.4.0, which introduced it.
func checking(check verb) verb {
	return func(c *call, ctx context.Context) error {
		if !c.since("0.4.0") {
			return refusal.New(refusal.Version, "cniVersion: %q: there is no CHECK before 0.4.0; give 0.4.0 or later", c.cfg.CNIVersion)
		}
		return check(c, ctx)
	}
}

// validation says which faults of the input fail a verb. DEL and GC accept input that ADD has
// refused, since runtimes call DEL after every failed ADD.
type validation int

const (
	anything validation = iota // the record may suffice
	lenient                    // the text must be a JSON object
	strict
)

type parser struct {
	strict, lenient func(stdin []byte) (*netconf.Config, error)
}

// faults of the input of a lenient verb; nil for none.
type faults struct {
	netconf error // no netconf can be read, and the call has an empty one
	policy  error // the node's policy cannot be used, and allows nothing
	paths   error // the policy's paths are unknown: the call uses the defaults, and records may be elsewhere
}

// call is one run of a verb: its input, and the parts that do its work.
type call struct {
	args   *skel.CmdArgs
	env    map[string]string // CNI_ARGS
	cfg    *netconf.Config
	policy *netconf.Policy
	faults faults
	log    *logrus.Entry

	records   nodestate.AttachmentDir
	host      *link.Handle
	steps     *steps.Steps
	presence  *presence.Prober
	selector  *selection.Selector
	addresses *addressing.IPAM
	plugins   *delegation.Runner
	releaser  *giveback.Releaser
	holder    *hold.Holder
}

func (p *Plugin) run(ctx context.Context, args *skel.CmdArgs, parse parser, v validation, do verb) error {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	c := &call{args: args, steps: &steps.Steps{Before: p.Before}}
	c.policy, c.faults.policy = p.readPolicy()
	if c.faults.policy != nil && v == strict {
		return c.faults.policy
	}
	if c.policy == nil && c.faults.policy != nil {
		c.policy, c.faults.paths = &netconf.Policy{}, c.faults.policy
	}
	read := parse.lenient
	if v == strict {
		read = parse.strict
	}
	if c.cfg, c.faults.netconf = read(args.StdinData); c.faults.netconf != nil {
		if v >= lenient {
			return c.faults.netconf
		}
		c.cfg = &netconf.Config{Paths: netconf.DefaultPaths()}
	}
	var err error
	if c.env, err = parseArgs(args.Args); err != nil && v == strict {
		return err
	}
	bootID, err := nodestate.BootID()
	if err != nil {
		return err
	}
	paths := c.policy.ResolvePaths(c.cfg)
	closeLog, err := c.openLog(paths)
	if err != nil && v == strict {
		return err
	}
	defer closeLog()
	if c.faults.policy != nil {
		c.log.WithError(c.faults.policy).Warn("going by the records alone")
	}
	if c.host, err = link.Open(); err != nil {
		return err
	}
	defer c.host.Close()
	c.assemble(paths, bootID, p.Exec)
	return do(c, ctx)
}

func (c *call) assemble(paths netconf.Paths, bootID string, exec invoke.Exec) {
	id := c.id()
	sys := sysfs.NewFS(paths.Sysfs)
	c.records = nodestate.AttachmentDir(paths.DataDir)
	c.presence = &presence.Prober{BootID: bootID, Host: c.host, Sys: sys, Netns: c.args.Netns}
	c.selector = &selection.Selector{
		Config: c.cfg, Policy: c.policy, Inventory: paths.Inventory, BootID: bootID, Namespace: c.env["K8S_POD_NAMESPACE"],
	}
	c.addresses = &addressing.IPAM{
		Config: c.cfg, Inventory: paths.Inventory, Pod: c.pod(),
		Leases: addressing.Leases{Dir: paths.LeaseDir, Records: c.records, BootID: bootID, ID: id, Log: c.log},
	}
	c.plugins = &delegation.Runner{Config: c.cfg, Policy: c.policy, Args: c.args, Log: c.log, Folder: paths.DataDir, Exec: exec}
	c.releaser = &giveback.Releaser{
		Devices: &giveback.Devices{Prober: c.presence, Records: c.records, Steps: c.steps, Log: c.log},
		Plugins: c.plugins, Leases: c.addresses.Leases, Policy: c.policy,
	}
	c.holder = &hold.Holder{
		Reselect: c.selector.Candidates,
		Fit:      &hold.Fit{Config: c.cfg, Host: c.host, Sys: sys}, Args: c.args, ID: id, Pod: c.pod(), PodUID: c.env["K8S_POD_UID"],
		Records: c.records, Presence: c.presence, Plugins: c.plugins, Addresses: c.addresses, Releaser: c.releaser, Steps: c.steps, Log: c.log,
	}
}

// readPolicy reads the node's policy; nil for none. With an error the policy only has the node's
// paths, or is nil if those are unknown.
func (p *Plugin) readPolicy() (*netconf.Policy, error) {
	path := p.PolicyPath
	if path == "" {
		path = nodestate.DefaultPolicyPath
	}
	data, err := nodestate.ReadTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var policy, salvaged *netconf.Policy
	if err == nil {
		if policy, err = netconf.ParsePolicy(data); err == nil {
			return policy, nil
		}
		salvaged = netconf.SalvagePolicy(data)
	}
	return salvaged, refusal.New(refusal.Policy, "the node's policy cannot be used, so nothing is allowed; mend it or install it anew: %w", err)
}

// parseArgs reads CNI_ARGS: KEY=VALUE pairs separated by semicolons (CNI spec 1.1.0 section
// 2). With an error it returns the well-formed pairs. Unknown keys are allowed.
func parseArgs(s string) (map[string]string, error) {
	env := map[string]string{}
	var bad error
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			bad = refusal.New(refusal.Environment, "CNI_ARGS: %q: want KEY=VALUE pairs separated by semicolons", pair)
			continue
		}
		env[k] = v
	}
	return env, bad
}

// openLog opens the call's log. With an error it is standard error.
func (c *call) openLog(paths netconf.Paths) (closeLog func(), err error) {
	logger := logrus.New()
	logger.Formatter = &logrus.TextFormatter{DisableColors: true, FullTimestamp: true}
	if level, err := logrus.ParseLevel(paths.LogLevel); err == nil {
		logger.Level = level
	}
	c.log = logger.WithFields(logrus.Fields{"containerID": c.args.ContainerID, "ifname": c.args.IfName})
	if pod := c.pod(); pod != "" {
		c.log = c.log.WithField("pod", pod)
	}
	if paths.LogFile == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(filepath.Clean(paths.LogFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return func() {}, refusal.New(refusal.Invalid, "logFile: %v; name a file in a folder that exists, or remove the key", err)
	}
	logger.Out = f
	return func() { f.Close() }, nil //nolint:errcheck,gosec // nothing is buffered
}

// since reports whether the netconf's CNI version is at least spec.
func (c *call) since(spec string) bool {
	later, err := version.GreaterThanOrEqualTo(c.cfg.CNIVersion, spec)
	return err == nil && later
}

// pod returns namespace/name of the pod; "" if the runtime does not tell.
func (c *call) pod() string {
	if name := c.env["K8S_POD_NAME"]; name != "" {
		return c.env["K8S_POD_NAMESPACE"] + "/" + name
	}
	return ""
}

func (c *call) id() nodestate.AttachmentID {
	return nodestate.AttachmentID{ContainerID: c.args.ContainerID, IfName: c.args.IfName}
}

func (c *call) lockRecord(ctx context.Context, id nodestate.AttachmentID) (*nodestate.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	return c.records.Lock(ctx, id)
}

// openTarget opens CNI_NETNS and refuses the host's own.
func (c *call) openTarget() (*link.Netns, error) {
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return nil, refusal.New(refusal.InvalidNetNS, "CNI_NETNS: %w", err)
	}
	host, err := ns.Current()
	if err != nil {
		ns.Close()
		return nil, err
	}
	if host {
		ns.Close()
		return nil, refusal.New(refusal.InvalidNetNS, "CNI_NETNS: %s is the host's own network namespace; remove the network from the pod, or hostNetwork: true",
			c.args.Netns)
	}
	return ns, nil
}

func otherVersion(err error) error {
	return refusal.New(refusal.Internal, "another version of multi-eni wrote the attachment's record, and only that version can release it; "+
		"install it again, or remove the file and repeat DEL, which then uses the netconf: %w", err)
}
