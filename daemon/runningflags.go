package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
)

// adopt sets the flags that were not given to the running daemon's, and tells where the
// configuration comes from.
func (c *nodeFlags) adopt(ctx context.Context, f *pflag.FlagSet, p program) (doctor.Finding, error) {
	const check = "configuration"
	socket := status.Socket(c.inventory)
	config, err := status.AskConfig(ctx, socket)
	if err != nil {
		why := fmt.Sprintf("no multi-enid answers at %s", socket)
		if errors.Is(err, status.ErrNoConfig) {
			why = err.Error()
		}
		if f.Changed("nodeeni-source") {
			return doctor.Finding{Level: doctor.OK, Check: check, Detail: "as the flags say, for " + why}, nil
		}
		if c.nodeName == "" || c.kubeconfig == "" && p.getenv("KUBERNETES_SERVICE_HOST") == "" {
			return doctor.Finding{}, cli.Usagef("%s: give the flags of multi-enid run, at least --nodeeni-source=kube or --nodeeni-source=dir:PATH", why)
		}
		c.source = sourceKube
		return doctor.Finding{Level: doctor.Warn, Check: check, Detail: why + ", so that flags that were not given have their defaults",
			Remedy: "give the flags of multi-enid run"}, nil
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
	return doctor.Finding{Level: doctor.OK, Check: check, Detail: fmt.Sprintf("flags of the running multi-enid %s, NodeENIs from %s", config.Version,
		c.source)}, nil
}
