package arch

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// importRule forbids the packages below from to import paths below to. "pkg" and the like are folders of the module.
type importRule struct {
	name       string
	why        string
	from       []string
	except     []string // parts of from that may
	to         []string
	transitive bool // through other packages too
	bad, good  []string
}

// shipped are the folders whose packages end up in a binary of ours.
var shipped = []string{"pkg", "plugins", "daemon"}

func importRules() []rule {
	var out []rule
	for _, r := range slices.Concat(ownImports(), libraryImports(), layerImports()) {
		out = append(out, rule{name: "import/" + r.name, why: r.why, check: r.check, bad: r.bad, good: r.good})
	}
	return append(out, deviceRule())
}

func ownImports() []importRule {
	return []importRule{
		{
			name: "plugins-daemon",
			why:  "pods start and stop while the daemon is down: the two share files (pkg/nodestate), never code of their own",
			from: []string{"plugins"}, to: []string{"daemon"},
			bad:  []string{imports("plugins/internal/attach", module+"/daemon/internal/inventory")},
			good: []string{imports("plugins/internal/attach", module+"/pkg/nodestate")},
		},
		{
			name: "daemon-plugins",
			why:  "the daemon runs the plugin as a program, as a runtime does",
			from: []string{"daemon"}, to: []string{"plugins"},
			bad: []string{imports("daemon/internal/reconcile", module+"/plugins/internal/attach")},
		},
		{
			name: "pkg-up",
			why:  "pkg is what other projects may import; it knows nothing of the programs above it",
			from: []string{"pkg"}, to: []string{"plugins", "daemon"},
			bad: []string{
				imports("pkg/nodestate", module+"/plugins/internal/netconf"),
				imports("pkg/nodestate", module+"/daemon/internal/pcidp"),
			},
		},
		{
			name: "product-test",
			why:  "test support is not shipped",
			from: shipped, to: []string{"test"},
			bad: []string{imports("daemon", module+"/test/fakeimds")},
		},
		{
			name: "plugins-apis",
			why:  "the plugin reads the inventory; a NodeENI is the daemon's business, and its types bring apimachinery",
			from: []string{"plugins"}, to: []string{"pkg/apis"}, transitive: true,
			bad: []string{
				imports("plugins/internal/attach", module+"/pkg/apis/networking/v1alpha1"),
				imports("plugins/internal/attach", module+"/pkg/x") + imports("pkg/x", module+"/pkg/apis/networking/v1alpha1"),
			},
		},
		{
			name: "light",
			why:  "a plugin is started for every pod: net/http, client libraries and telemetry cost start-up time and memory each time",
			from: []string{"plugins", "pkg"}, except: []string{"pkg/apis"}, transitive: true,
			to: []string{"k8s.io", "sigs.k8s.io", "github.com/aws", "github.com/prometheus", "go.opentelemetry.io", "net/http"},
			bad: []string{
				imports("pkg/sysfs", "net/http"),
				imports("plugins/internal/attach", "example.org/x") + "-- @example.org/x --\nexample.org/y\n-- @example.org/y --\nnet/http\n",
				imports("plugins/internal/attach", "k8s.io/api/core/v1"),
				imports("pkg/link", "go.opentelemetry.io/otel"),
			},
			good: []string{
				imports("pkg/apis/networking/v1alpha1", "k8s.io/apimachinery/pkg/apis/meta/v1"),
				imports("daemon/internal/awsnode", "net/http"),
				imports("pkg/sysfs", "net/httpx"),
			},
		},
	}
}

// libraryImports are the rules that give each library one package.
func libraryImports() []importRule {
	return []importRule{
		{
			name: "aws-sdk",
			why:  "one package speaks to AWS; the others get its answers as plain values",
			from: shipped, except: []string{"daemon/internal/awsnode"}, to: []string{"github.com/aws"},
			bad:  []string{imports("daemon/internal/reconcile", "github.com/aws/aws-sdk-go-v2/config")},
			good: []string{imports("daemon/internal/awsnode", "github.com/aws/aws-sdk-go-v2/config")},
		},
		{
			name: "client-go",
			why:  "the folders of one package speak to the API server; the others get its answers as plain values",
			from: shipped, except: []string{"daemon/internal/kube"}, to: []string{"k8s.io/client-go"},
			bad:  []string{imports("daemon/internal/manifest", "k8s.io/client-go/rest")},
			good: []string{imports("daemon/internal/kube/client", "k8s.io/client-go/rest")},
		},
		{
			name: "kubelet-api",
			why:  "one package asks the kubelet, and one serves it; the others get plain values",
			from: shipped, except: []string{"daemon/internal/podresources", "daemon/internal/deviceplugin"}, to: []string{"google.golang.org/grpc", "k8s.io/kubelet"},
			bad: []string{
				imports("daemon/internal/kube/pluginpods", "k8s.io/kubelet/pkg/apis/podresources/v1"),
				imports("daemon/internal/reconcile", "google.golang.org/grpc"),
			},
			good: []string{
				imports("daemon/internal/podresources", "google.golang.org/grpc"),
				imports("daemon/internal/deviceplugin", "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"),
			},
		},
		{
			name: "prometheus",
			why:  "metrics are made of the View, like everything else that the daemon tells; nobody else counts",
			from: shipped, except: []string{"daemon/internal/server"}, to: []string{"github.com/prometheus"},
			bad:  []string{imports("daemon/internal/reconcile", "github.com/prometheus/client_golang/prometheus")},
			good: []string{imports("daemon/internal/server", "github.com/prometheus/client_golang/prometheus")},
		},
		{
			name: "kernel-modules",
			why:  "one package changes which drivers the kernel has; a plugin never does",
			from: shipped, except: []string{"daemon/internal/driver"}, to: []string{"github.com/u-root"},
			bad:  []string{imports("daemon/internal/reconcile", "github.com/u-root/u-root/pkg/kmodule")},
			good: []string{imports("daemon/internal/driver", "github.com/u-root/u-root/pkg/kmodule")},
		},
		{
			name: "netlink",
			why:  "one package holds the netlink quirks (dumps cut short, EEXIST half-way through a move); tests may look at the kernel themselves",
			from: shipped, except: []string{"pkg/link"}, to: []string{"github.com/vishvananda/netlink"},
			bad: []string{imports("plugins/internal/attach", "github.com/vishvananda/netlink")},
			good: []string{
				imports("pkg/link", "github.com/vishvananda/netlink"),
				imports("test/nstest", "github.com/vishvananda/netlink"),
			},
		},
	}
}

// layerImports are the rules that keep pure packages and readers apart from clients and from the loop.
func layerImports() []importRule {
	return []importRule{
		{
			name: "inventory",
			why:  "the join of the sources is pure: it takes plain values (daemon/internal/vpc) and reaches no client; net/http comes along with the NodeENI's types",
			from: []string{"daemon/internal/inventory", "daemon/internal/vpc", "daemon/internal/offer"}, transitive: true,
			to: []string{"github.com/aws", "k8s.io/client-go", "google.golang.org/grpc", "github.com/prometheus"},
			bad: []string{
				imports("daemon/internal/inventory", module+"/daemon/internal/awsnode") + imports("daemon/internal/awsnode", "github.com/aws/smithy-go"),
				imports("daemon/internal/vpc", "github.com/aws/smithy-go"),
				imports("daemon/internal/inventory", "k8s.io/client-go/rest"),
			},
			good: []string{imports("daemon/internal/inventory", module+"/daemon/internal/vpc")},
		},
		{
			name: "loop-readers",
			why:  "readers of the daemon's state need the View and the device plugin's interface, not the loop that makes them",
			from: []string{
				"daemon/internal/kube", "daemon/internal/server", "daemon/internal/doctor", "daemon/internal/show", "daemon/internal/kubectl",
				"daemon/internal/view", "daemon/internal/problem", "daemon/internal/filewatch",
				"daemon/internal/pluginrestart", "daemon/internal/driver", "daemon/internal/hostlinks", "daemon/internal/orphan", "daemon/internal/addresses",
			},
			to: []string{"daemon/internal/reconcile"}, transitive: true,
			bad: []string{
				imports("daemon/internal/kube", module+"/daemon/internal/reconcile"),
				imports("daemon/internal/doctor", module+"/daemon/internal/x") + imports("daemon/internal/x", module+"/daemon/internal/reconcile"),
			},
			good: []string{imports("daemon/internal/kube", module+"/daemon/internal/view"), imports("daemon", module+"/daemon/internal/reconcile")},
		},
		{
			name: "view-leaf",
			why:  "whoever reads the View gets no part of the daemon with it",
			from: []string{"daemon/internal/view"}, transitive: true,
			to: []string{
				"daemon/internal/pluginrestart", "daemon/internal/inventory", "daemon/internal/kube", "daemon/internal/driver", "daemon/internal/awsnode",
				"github.com/aws", "k8s.io/client-go",
			},
			bad: []string{
				imports("daemon/internal/view", module+"/daemon/internal/inventory"),
				imports("daemon/internal/view", module+"/pkg/x") + imports("pkg/x", "github.com/aws/aws-sdk-go-v2/config"),
			},
			good: []string{imports("daemon/internal/view", module+"/pkg/nodestate")},
		},
	}
}

func imports(dir, importPath string) string {
	return fmt.Sprintf("-- %s/x.go --\npackage x\n\nimport _ %q\n", dir, importPath)
}

func (r importRule) check(tr tree) []string {
	g := tr.graph()
	var out []string
	for _, p := range slices.Sorted(maps.Keys(g)) {
		dir, own := strings.CutPrefix(p, module+"/")
		if !own || !under(dir, r.from) || under(dir, r.except) {
			continue
		}
		if chain := r.find(g, p); chain != nil {
			out = append(out, fmt.Sprintf("%s must not import %s: %s", dir, path.Base(chain[len(chain)-1]), strings.Join(chain, " -> ")))
		}
	}
	return out
}

func (r importRule) find(g map[string][]string, p string) []string {
	seen := map[string]bool{p: true}
	for queue := [][]string{{p}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		for _, i := range g[chain[len(chain)-1]] {
			next := append(slices.Clone(chain), i)
			if under(strings.TrimPrefix(i, module+"/"), r.to) {
				return next
			}
			if r.transitive && !seen[i] {
				seen[i] = true
				queue = append(queue, next)
			}
		}
	}
	return nil
}

func under(p string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return p == f || strings.HasPrefix(p, f+"/") })
}

func deviceRule() rule {
	return rule{
		name: "import/device-stdlib",
		why:  "identities are used everywhere, so they bring nothing along",
		check: func(tr tree) []string {
			var out []string
			for _, i := range tr.graph()[module+"/pkg/device"] {
				if host, _, _ := strings.Cut(i, "/"); strings.Contains(host, ".") {
					out = append(out, "pkg/device must import the standard library only: "+i)
				}
			}
			slices.SortFunc(out, cmp.Compare)
			return out
		},
		bad: []string{
			imports("pkg/device", "golang.org/x/sys/unix"),
			imports("pkg/device", module+"/pkg/sysfs"),
		},
		good: []string{imports("pkg/device", "net/netip")},
	}
}
