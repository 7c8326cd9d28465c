package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
)

// Configure sets the flags of multi-enid run that were not given to the running daemon's. The finding tells where the configuration comes
// from. In a cluster without a daemon it sets --nodeeni-source=kube. version is this program's.
func Configure(ctx context.Context, f *pflag.FlagSet, version string, inCluster bool) (Finding, error) {
	const check, source = "configuration", "nodeeni-source"
	value := func(name string) string { return f.Lookup(name).Value.String() }
	socket := status.Socket(value("inventory"))
	config, err := status.AskConfig(ctx, socket)
	if err != nil {
		why := fmt.Sprintf("no multi-enid answers at %s", socket)
		if errors.Is(err, status.ErrNoConfig) {
			why = err.Error()
		}
		if f.Changed(source) {
			return ok(check, "as the flags say, for %s", why)[0], nil
		}
		if value("node-name") == "" || value("kubeconfig") == "" && !inCluster {
			return Finding{}, cli.Usagef("%s: give the flags of multi-enid run, at least --nodeeni-source=kube or --nodeeni-source=dir:PATH", why)
		}
		if err := f.Set(source, "kube"); err != nil {
			return Finding{}, err
		}
		return warn(check, "give the flags of multi-enid run", "%s, so that flags that were not given have their defaults", why)[0], nil
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
		return warn(check, "run the doctor of that version", "multi-enid %s runs here, and this is %s, which does not know its %s",
			config.Version, version, strings.Join(odd, ", "))[0], nil
	}
	return ok(check, "flags of the running multi-enid %s, NodeENIs from %s", config.Version, value(source))[0], nil
}
