package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
)

// notConfig are flags that say nothing of the daemon.
func notConfig() []string { return []string{"help"} }

// flagValues are the values of all flags, as Set takes them.
func flagValues(f *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	f.VisitAll(func(f *pflag.Flag) {
		value := f.Value.String()
		if f.Value.Type() == "stringSlice" {
			value = strings.TrimSuffix(strings.TrimPrefix(value, "["), "]")
		}
		if value != unset && !slices.Contains(notConfig(), f.Name) {
			all[f.Name] = value
		}
	})
	return all
}

// adopt takes the running daemon's flags for those that were not given, and says where
// the configuration comes from.
func (c *nodeFlags) adopt(ctx context.Context, f *pflag.FlagSet, p program) (doctor.Finding, error) {
	const check = "configuration"
	socket := filepath.Join(filepath.Dir(c.inventory), server.SocketName)
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	config, err := server.AskConfig(asking, socket)
	if err != nil {
		why := fmt.Sprintf("no multi-enid answers at %s", socket)
		if errors.Is(err, server.ErrNoConfig) {
			why = err.Error()
		}
		if f.Changed("nodeeni-source") {
			return doctor.Finding{Level: doctor.OK, Check: check, Detail: "as the flags say, for " + why}, nil
		}
		if c.nodeName == "" || c.kubeconfig == "" && p.getenv("KUBERNETES_SERVICE_HOST") == "" {
			return doctor.Finding{}, cli.Usagef("%s: give the flags of multi-enid run, at least --nodeeni-source=kube or --nodeeni-source=dir:PATH", why)
		}
		c.source = sourceKube
		return doctor.Finding{Level: doctor.Warn, Check: check, Detail: why + ", so that flags that were not given have their defaults", Remedy: "give the flags of multi-enid run"}, nil
	}
	var odd []string
	for name, value := range config.Flags {
		flag := f.Lookup(name)
		if flag == nil || !flag.Changed && flag.Value.String() != value && f.Set(name, value) != nil {
			odd = append(odd, "--"+name)
		}
	}
	if len(odd) > 0 {
		slices.Sort(odd)
		return doctor.Finding{
			Level: doctor.Warn, Check: check, Remedy: "run the doctor of that version",
			Detail: fmt.Sprintf("multi-enid %s runs here, and this is %s, which does not know its %s", config.Version, version, strings.Join(odd, ", ")),
		}, nil
	}
	return doctor.Finding{Level: doctor.OK, Check: check, Detail: fmt.Sprintf("flags of the running multi-enid %s, NodeENIs from %s", config.Version, c.source)}, nil
}
