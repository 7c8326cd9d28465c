package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/addresses"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/filewatch"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/install"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kernelevents"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/manifest"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/orphan"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/events"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func (p program) runCommand(ctx context.Context) *cobra.Command {
	var c nodeFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon of this node until SIGTERM",
		Long: `Run the daemon of this node until SIGTERM.

The daemon finds the ENIs that the NodeENIs declare, brings them up or binds their
drivers, and writes the inventory for the CNI plugin. It keeps the config of the SR-IOV
device plugin, and reports to the cluster. It changes nothing when it ends.`,
		Example: `  multi-enid run --nodeeni-source=kube
  multi-enid run --nodeeni-source=dir:/etc/multi-eni/nodeenis`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.given = cli.Values(cmd.Flags()) // before check fills in the defaults that depend on other flags
			log, logErr := c.log.New(p.stderr)
			if err := errors.Join(c.check(), logErr); err != nil {
				return &cli.UsageError{Err: err}
			}
			return c.run(ctx, log)
		},
	}
	c.add(cmd.Flags(), p)
	c.complete(cmd)
	return cmd
}

// run is the daemon. It ends when ctx does, and leaves everything in place.
func (c *nodeFlags) run(ctx context.Context, log *logrus.Logger) error {
	unlock, err := install.LockState(c.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	bootID, err := nodestate.BootID()
	if err != nil {
		return err
	}
	host, err := c.openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	interest := &events.Interest{}
	var instance awsnode.InstanceID
	cluster, err := c.connect(log, instance.Get)
	if err != nil {
		return err
	}
	wake, awake := newWake()
	services := &problem.Services{Wake: awake}
	watcher, err := filewatch.New(services, "files", c.watched(bootID)...)
	if err != nil {
		return err
	}
	attachments := nodestate.AttachmentDir(c.attachmentsDir)
	orphans := orphan.New(orphan.Options{
		Attachments: attachments, BootID: bootID, BinDir: c.cniBinDir, Grace: c.orphanGrace, Now: time.Now, Log: log, Wake: awake,
	})
	srv := c.server(cluster, services, log)
	asked := ctx // ends when somebody stops the daemon
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	instance.Learn(ctx, awsnode.New(awsnode.Config{}).InstanceID, awake)
	o := reconcile.Options{
		NodeName: c.nodeName, RenamedFrom: c.renamedFrom, Instance: instance.Get, BootID: bootID, InventoryPath: c.inventory, StateDir: c.stateDir,
		Attachments: attachments, Leases: leases.Dir(c.leaseDir), NodeENIs: manifest.New(c.dir), Metadata: awsnode.New(awsnode.Config{}),
		PCI: sysfs.NewFS(c.sysfs), Host: host, Config: &pcidp.File{Path: c.pcidpConfig, Now: time.Now},
		Drivers: driver.NewNode(sysfs.NewFS(c.sysfs), c.dev, c.modulesRoot, c.drivers),
		Orphans: orphans, SourceRouting: c.sourceRouting, IPv6: c.ipv6Conf(), Interest: interest, Advice: hostnet.Adviser(os.DirFS(c.sysfs)),
		Services: services, Wake: awake, Jitter: rand.N(maxJitter), Now: time.Now, Uptime: nodestate.Uptime, Log: log,
	}
	manager := c.manager(&o)
	o.Observe = func(v view.View) {
		srv.Observe(v)
		cluster.observe(v)
		if manager != nil {
			manager.Observe(v.Inventory.Devices)
		}
	}
	cluster.use(&o)
	plugin := c.offerBy(&o, cluster, services, awake, log)
	r, err := reconcile.New(o)
	if err != nil {
		return err
	}
	offered := runPlugin(ctx, plugin)
	log.WithFields(logrus.Fields{"version": version, "node": c.nodeName, "nodeENIs": c.source}).Info("multi-enid started")
	served := c.serve(ctx, srv, stop)
	go watcher.Run(ctx, awake)
	follow(ctx, interest, awake, services)
	if manager != nil {
		go manager.Run(ctx)
	}
	cluster.run(ctx, awake, r.Nudge)
	if cluster.source != nil {
		if err := cluster.source.Await(ctx, wake); err != nil {
			return err
		}
	}
	reconcile.Run(ctx, r.Sync, wake)
	orphans.Wait()
	<-offered
	last := departure{devices: unended(ctx, r), pod: c.ownPod(), release: cluster.release, log: log}
	return last.end(ctx, asked, served)
}

func (c *nodeFlags) server(k *cluster, services *problem.Services, log logrus.FieldLogger) *server.Server {
	o := server.Options{
		Version: version, Flags: c.given, Inventory: c.inventory, Leases: leases.Dir(c.leaseDir), Services: services, Now: time.Now, Log: log,
	}
	k.serve(&o)
	return server.New(o)
}

// follow wakes the daemon after changes of links and PCI functions, until ctx ends.
func follow(ctx context.Context, interest *events.Interest, awake func(), services *problem.Services) {
	go kernelevents.Follower{Name: "links", Subscribe: interest.Subscribe, Wake: awake, Services: services}.Run(ctx)
	go kernelevents.Follower{Name: "PCI functions", Subscribe: events.SubscribeUevents, Wake: awake, Services: services}.Run(ctx)
}

// newWake returns a channel that holds a token once awake was called.
func newWake() (wake chan struct{}, awake func()) {
	wake = make(chan struct{}, 1)
	return wake, func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// watched returns the folders whose changes wake the daemon.
func (c *nodeFlags) watched(bootID string) []string {
	all := []string{filepath.Dir(c.pcidpConfig), c.attachmentsDir, filepath.Join(c.attachmentsDir, "restore"), filepath.Join(c.leaseDir, bootID)}
	if c.dir != "" {
		all = append(all, c.dir)
	}
	return all
}

// serve runs the server until ctx ends, and sends its error. It calls stop on an error:
// another daemon has the same inventory, and two would work against each other.
func (c *nodeFlags) serve(ctx context.Context, srv *server.Server, stop func()) <-chan error {
	served := make(chan error, 1)
	go func() {
		err := srv.Run(ctx, c.listen, status.Socket(c.inventory))
		if err != nil {
			stop()
		}
		served <- err
	}()
	return served
}

// manager returns the Manager that keeps the pools of addresses filled; nil without --manage-addresses.
func (c *nodeFlags) manager(o *reconcile.Options) *addresses.Manager {
	if c.manageAddresses == "" {
		return nil
	}
	m := addresses.New(addresses.Options{
		EC2: awsnode.NewEC2(awsnode.New(awsnode.Config{})), Leases: o.Leases, Attachments: o.Attachments, BootID: o.BootID,
		Prefixes: c.manageAddresses == managePrefixes, Marks: c.marks, Wake: o.Wake, Now: o.Now, Uptime: nodestate.Uptime, Jitter: rand.N[time.Duration], Log: o.Log,
	})
	o.Addresses = m
	return m
}

// maxJitter spreads the restarts of a cluster's device plugins: all nodes that a NodeENI selects see its removal at once.
const maxJitter = 2 * time.Second

// openHost opens the host's links, with the IPv6 settings in the folder of --sysctls.
func (c *nodeFlags) openHost() (*link.Handle, error) {
	h, err := link.Open()
	if err != nil {
		return nil, err
	}
	h.IPv6Conf = c.ipv6Conf()
	return h, nil
}
