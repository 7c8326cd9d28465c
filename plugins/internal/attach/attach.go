// Package attach implements the CNI verbs of multi-eni: it resolves the device
// that a netconf selects, claims it, moves it into the container's netns or
// delegates, gives it addresses, records all that, and takes it back.
//
// The attachment record is the undo log. It is written before the first effect
// and holds all that is needed to reverse any of them; a failed ADD, a DEL, a GC
// and the ADD that meets a dead one's remains all run the same release.
package attach

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

// Bounds of the waits.
const (
	// verbTimeout bounds a whole verb; the kubelet gives up on a sandbox after
	// as long (runtimeRequestTimeout).
	verbTimeout = 2 * time.Minute
	// claimWait bounds the wait for another process that is claiming the device.
	claimWait = 20 * time.Second
	// undoTimeout bounds what a failed ADD has for its undo, which begins anew
	// when the verb's own time is up.
	undoTimeout = 30 * time.Second
	// recordWait bounds DEL's wait for an ADD of the same attachment that is
	// still running.
	recordWait = 2 * time.Second
	// returnWait bounds DEL's wait for a dying netns to give its links back.
	returnWait = 2 * time.Second
)

// Plugin carries out the verbs. The zero value is ready for use.
type Plugin struct {
	// Exec runs other plugins; nil is the real thing.
	Exec invoke.Exec
	// PolicyPath is where the policy is; "" is nodestate.DefaultPolicyPath.
	PolicyPath string
	// Before is called before each step that has an effect, with its name; an
	// error from it is the step's. Tests fail or kill a verb with it.
	Before func(step string) error
}

// Funcs returns the verbs for skel, which end with ctx at the latest. Results go
// to stdout.
func (p *Plugin) Funcs(ctx context.Context, stdout io.Writer) skel.CNIFuncs {
	verb := p.verbs(ctx, parser{netconf.Parse, netconf.ParseLenient})
	return skel.CNIFuncs{
		Add:    verb(strict, func(c *call) error { return c.printAdd(stdout) }), //nolint:contextcheck // a call carries its context
		Del:    verb(anything, (*call).del),
		Check:  verb(strict, checking((*call).check)),
		GC:     verb(lenient, (*call).gc),
		Status: verb(lenient, ready((*call).ready)),
	}
}

// verbs makes what skel calls of what a call does.
func (p *Plugin) verbs(ctx context.Context, parse parser) func(validation, func(*call) error) func(*skel.CmdArgs) error {
	return func(v validation, do func(*call) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error { return refusal.ToCNI(p.run(ctx, args, parse, v, do)) }
	}
}

// checking refuses a CHECK for a netconf of before CNI 0.4.0, which brought it.
func checking(check func(*call) error) func(*call) error {
	return func(c *call) error {
		if !c.since("0.4.0") {
			return refusal.New(refusal.Version, "cniVersion: %q: there is no CHECK before 0.4.0; give 0.4.0 or later", c.cfg.CNIVersion)
		}
		return check(c)
	}
}

// since says whether the netconf is of that version of the CNI spec, or of a later one.
func (c *call) since(spec string) bool {
	later, err := version.GreaterThanOrEqualTo(c.cfg.CNIVersion, spec)
	return err == nil && later
}

// validation says which parts of the input a verb insists on. Runtimes call DEL after
// every failed ADD, so DEL and GC make the best of input that ADD has refused. DEL
// needs no text at all where there is a record.
type validation struct{ text, netconf, policy bool }

var (
	strict   = validation{text: true, netconf: true, policy: true}
	lenient  = validation{text: true}
	anything = validation{}
)

// parser reads a program's netconfs, as strictly as the verb wants.
type parser struct {
	strict, lenient func(stdin []byte) (*netconf.Config, error)
}

// call is one run of a verb.
type call struct {
	*Plugin
	ctx  context.Context //nolint:containedctx // a call is the scope of the context
	log  *logrus.Entry
	args *skel.CmdArgs
	env  map[string]string // CNI_ARGS
	cfg  *netconf.Config
	// garbled says why DEL's text is no netconf, and cfg empty; nil when it is one.
	garbled error
	policy  *netconf.Policy
	// unusable says why the node's policy cannot be used; nil when it can.
	unusable error
	// lost says why the node's policy does not even tell its paths, so that these are
	// the defaults, and records may be elsewhere; nil when they are known.
	lost   error
	paths  netconf.Paths
	id     nodestate.AttachmentID
	dir    nodestate.AttachmentDir
	sys    sysfs.FS
	host   *link.Handle
	bootID string
	// anyPod: the call is for no particular pod, so the kubelet's allocation is unknown.
	anyPod bool
	// target is ADD's netns, open, and in a handle in it; nil in other verbs.
	target *link.Netns
	// intent is ADD's record once the device is claimed; nil in other verbs.
	intent *nodestate.Record
	in     *link.Handle
	// steps runs the effects.
	steps steps.Steps
}

func (p *Plugin) run(ctx context.Context, args *skel.CmdArgs, parse parser, v validation, verb func(*call) error) error {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	policy, unusable := p.readPolicy()
	if unusable != nil && v.policy {
		return unusable
	}
	var lost error
	if policy == nil && unusable != nil {
		policy, lost = &netconf.Policy{}, unusable
	}
	read := parse.lenient
	if v.netconf {
		read = parse.strict
	}
	cfg, garbled := read(args.StdinData)
	if garbled != nil {
		if v.text {
			return garbled
		}
		cfg = &netconf.Config{Paths: netconf.DefaultPaths()}
	}
	c := &call{Plugin: p, ctx: ctx, args: args, cfg: cfg, garbled: garbled, policy: policy, unusable: unusable, lost: lost, paths: policy.ResolvePaths(cfg), steps: steps.Steps{Before: p.Before}}
	c.id = nodestate.AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName}
	c.dir = nodestate.AttachmentDir(c.paths.DataDir)
	c.sys = sysfs.NewFS(c.paths.Sysfs)
	var err error
	if c.env, err = parseArgs(args.Args); err != nil && v.netconf {
		return err
	}
	if c.bootID, err = nodestate.BootID(); err != nil {
		return err
	}
	closeLog, err := c.openLog()
	if err != nil && v.netconf {
		return err
	}
	defer closeLog()
	if unusable != nil {
		c.log.WithError(unusable).Warn("going by the records alone")
	}
	if c.host, err = link.Open(); err != nil {
		return err
	}
	defer c.host.Close()
	return verb(c)
}

// readPolicy reads the node's policy; nil means that there is none. With an error the
// policy allows nothing, but its paths still lead to the records, which need no
// permission. With an error and a nil policy the paths are unknown too.
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
	return salvaged, &refusal.Error{Code: refusal.Policy, Msg: "the node's policy cannot be used, so nothing is allowed; mend it or install it anew", Err: err}
}

// parseArgs reads CNI_ARGS: KEY=VALUE pairs separated by semicolons (CNI spec
// 1.1.0 section 2), all that are well formed even with an error. Keys of others
// are none of our business.
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

// pod names the pod for messages: namespace/name, else the container.
func (c *call) pod() string {
	if name := c.env["K8S_POD_NAME"]; name != "" {
		return c.env["K8S_POD_NAMESPACE"] + "/" + name
	}
	return ""
}

func holder(a nodestate.Attachment) string {
	if a.Pod != "" {
		return fmt.Sprintf("pod %s (container %s, interface %s)", a.Pod, a.ContainerID, a.IfName)
	}
	return fmt.Sprintf("container %s, interface %s", a.ContainerID, a.IfName)
}

// openLog makes the call's log. With an error it is standard error.
func (c *call) openLog() (closeLog func(), err error) {
	logger := logrus.New()
	logger.Formatter = &logrus.TextFormatter{DisableColors: true, FullTimestamp: true}
	if level, err := logrus.ParseLevel(c.paths.LogLevel); err == nil {
		logger.Level = level
	}
	c.log = logger.WithFields(logrus.Fields{"containerID": c.id.ContainerID, "ifname": c.id.IfName})
	if pod := c.pod(); pod != "" {
		c.log = c.log.WithField("pod", pod)
	}
	if c.paths.LogFile == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(filepath.Clean(c.paths.LogFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return func() {}, refusal.New(refusal.Invalid, "logFile: %v; name a file in a folder that exists, or remove the key", err)
	}
	logger.Out = f
	return func() { f.Close() }, nil //nolint:errcheck,gosec // nothing is buffered
}

func (c *call) printAdd(stdout io.Writer) error {
	result, err := c.add()
	if err != nil {
		return err
	}
	versioned, err := cniresult.InVersion(result, c.cfg.CNIVersion)
	if err != nil {
		return err
	}
	return versioned.PrintTo(stdout)
}

// attached describes a device for the record, before its link is known.
func attached(pci device.PCIAddress, fn sysfs.PCIFunction, row *nodestate.Device) nodestate.AttachedDevice {
	d := nodestate.AttachedDevice{PCIAddress: pci, VF: fn.PhysFn != "", Instance: fn.Instance}
	if row != nil {
		d.MAC, d.ENIID, d.NodeENI = row.MAC, row.ENIID, row.NodeENI
	}
	return d
}
