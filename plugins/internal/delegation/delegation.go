// Package delegation runs other CNI plugins: delegates and IPAM plugins.
package delegation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// ErrNoBinary says that a plugin's binary is in none of its folders.
var ErrNoBinary = errors.New("plugin binary not found")

// Runner runs other plugins for one call. All fields but Policy, Intent and Exec are needed.
type Runner struct {
	Config *netconf.Config
	Policy *netconf.Policy
	Args   *skel.CmdArgs
	Log    *logrus.Entry
	Folder string // writable, and multi-eni's own
	// Intent is the record of the running ADD; nil in other verbs, and before it exists.
	Intent *nodestate.Record
	Exec   invoke.Exec // nil runs processes
}

// Own returns the environment of plugins for the call's own attachment.
func (r *Runner) Own() invoke.Args {
	return invoke.Args{ContainerID: r.Args.ContainerID, IfName: r.Args.IfName, NetNS: r.Args.Netns, PluginArgsStr: r.Args.Args, Path: r.folders()}
}

// Recorded is Own for a recorded attachment. Find looks in ADD's folders first, then in the
// call's.
func (r *Runner) Recorded(a nodestate.Attachment) invoke.Args {
	return invoke.Args{ContainerID: a.ContainerID, IfName: a.IfName, NetNS: a.Netns.Path, PluginArgsStr: a.Args, Path: a.Path + ":" + r.folders()}
}

// folders is CNI_PATH, or the policy's folder in place of it.
func (r *Runner) folders() string {
	if r.Policy != nil {
		return r.Policy.BinDir
	}
	return r.Args.Path
}

// Find returns the path of a plugin's binary. ErrNoBinary.
func (r *Runner) Find(typ string, i invoke.Args) (string, error) {
	// A relative folder, "" included, would be below our working directory.
	folders := slices.DeleteFunc(filepath.SplitList(i.Path), func(dir string) bool { return !filepath.IsAbs(dir) })
	file, err := r.exec(nil).FindInPath(typ, folders)
	if err != nil {
		return "", fmt.Errorf("plugin %s: %w in %s; install it there", typ, ErrNoBinary, i.Path)
	}
	return file, nil
}

// FindAll returns an error if a plugin of the netconf is missing.
func (r *Runner) FindAll() error {
	for _, d := range r.Plugins() {
		if _, err := r.Find(d.Type, r.Own()); err != nil {
			return err
		}
	}
	return nil
}

// Plugins returns the delegate and the IPAM plugin with netconfs for STATUS and GC, which concern
// no device; none if ADD would refuse the netconf.
func (r *Runner) Plugins() []*nodestate.Delegation {
	var out []*nodestate.Delegation
	if r.Config.Refused != nil || r.Policy.Check(r.Config) != nil {
		return nil
	}
	if r.Config.Delegate != nil {
		if conf, err := r.Config.DelegateConfig("", "", 0); err == nil {
			out = append(out, &nodestate.Delegation{Type: r.Config.Delegate.Type, Config: conf})
		}
	}
	if r.Config.IPAM != nil {
		if conf, err := r.Config.IPAMConfig(); err == nil {
			out = append(out, &nodestate.Delegation{Type: r.Config.IPAM.Type, Config: conf})
		}
	}
	return out
}

func (r *Runner) exec(intent *nodestate.Record) invoke.Exec {
	if r.Exec != nil {
		return r.Exec
	}
	return &pluginExec{stderr: r.Log.Logger.Out, intent: intent, folder: r.Folder}
}

// Add runs a plugin's ADD for the call's own attachment.
func (r *Runner) Add(ctx context.Context, d *nodestate.Delegation) (*types100.Result, error) {
	i := r.Own()
	i.Command = "ADD"
	file, err := r.Find(d.Type, i)
	if err != nil {
		return nil, err
	}
	result, err := invoke.ExecPluginWithResult(ctx, file, d.Config, &i, r.exec(r.Intent))
	if err != nil {
		return nil, fmt.Errorf("%s ADD: %w", d.Type, err)
	}
	return cniresult.From(result)
}

// Run runs a verb that has no result.
func (r *Runner) Run(ctx context.Context, command string, d *nodestate.Delegation, i invoke.Args) error {
	file, err := r.Find(d.Type, i)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	i.Command = command
	if err := invoke.ExecPluginWithoutResult(ctx, file, d.Config, &i, r.exec(nil)); err != nil {
		return fmt.Errorf("%s %s: %w", d.Type, command, err)
	}
	return nil
}

// Check runs CHECK with the runtime's prevResult, as the spec demands, but without the keys that
// multi-eni has checked: the reference plugins look for routes only in the main table, from
// where sbr moves them.
func (r *Runner) Check(ctx context.Context, d *nodestate.Delegation, i invoke.Args, checked []string) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(r.Config.PrevResult, &fields); err != nil {
		return fmt.Errorf("prevResult for %s: %w", d.Type, err)
	}
	for _, key := range checked {
		delete(fields, key)
	}
	prev, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("prevResult for %s: %w", d.Type, err)
	}
	conf, err := netconf.WithPrevResult(d.Config, prev)
	if err != nil {
		return fmt.Errorf("recorded netconf of %s: %w", d.Type, err)
	}
	return r.Run(ctx, "CHECK", &nodestate.Delegation{Type: d.Type, Config: conf}, i)
}
