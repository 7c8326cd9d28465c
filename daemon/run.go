package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/manifest"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// runConfig is the command line of run.
type runConfig struct {
	nodeName, source, pcidpConfig, inventory, stateDir, attachmentsDir, sysfs, restart, logLevel, logFormat string
}

func (p program) runCommand(ctx context.Context) *cobra.Command {
	var c runConfig
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon of this node until SIGTERM",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, log, err := c.check(p)
			if err != nil {
				return &usageError{err}
			}
			return c.run(ctx, dir, log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.nodeName, "node-name", p.getenv("NODE_NAME"), "name of this node, by which status.attachments names it (default $NODE_NAME, else the host's name)")
	f.StringVar(&c.source, "nodeeni-source", "", "where the NodeENIs are: dir:PATH, a folder of manifests")
	f.StringVar(&c.pcidpConfig, "pcidp-config", or(p.getenv("SRIOV_DP_CONFIG_PATH"), pcidp.DefaultPath), "config file of the SR-IOV device plugin ($SRIOV_DP_CONFIG_PATH)")
	f.StringVar(&c.inventory, "inventory", nodestate.DefaultInventoryPath, "inventory to write")
	f.StringVar(&c.stateDir, "state-dir", nodestate.DefaultStateDir, "folder of the daemon's own memory")
	f.StringVar(&c.attachmentsDir, "attachments-dir", nodestate.DefaultAttachmentsDir, "folder of the plugin's attachment records")
	f.StringVar(&c.sysfs, "sysfs", sysfs.DefaultRoot, "where sysfs is mounted")
	f.StringVar(&c.restart, "restart", "none", "how to restart the device plugin after its config changed: none only logs it")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warning or error")
	f.StringVar(&c.logFormat, "log-format", "text", "text or json")
	return cmd
}

// check returns the NodeENIs' folder and the log, or every fault of the flags.
func (c *runConfig) check(p program) (dir string, log *logrus.Logger, err error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	kind, dir, _ := strings.Cut(c.source, ":")
	switch {
	case kind == "kube":
		fault("--nodeeni-source %q: the Kubernetes API is not in this version; give dir:PATH, a folder of NodeENI manifests", c.source)
	case kind != "dir" || dir == "":
		fault("--nodeeni-source %q: want dir:PATH, such as dir:/etc/multi-eni/nodeenis", c.source)
	}
	switch c.restart {
	case "none":
	case "pods":
		fault("--restart %q: restarting pods is not in this version; give none, and restart the device plugin when the log says so", c.restart)
	default:
		fault("--restart %q: want none", c.restart)
	}
	for _, f := range []struct{ flag, path string }{
		{"--pcidp-config", c.pcidpConfig}, {"--inventory", c.inventory}, {"--state-dir", c.stateDir}, {"--attachments-dir", c.attachmentsDir}, {"--sysfs", c.sysfs},
	} {
		if f.path == "" {
			fault("%s %q: want a path", f.flag, f.path)
		}
	}
	if c.nodeName == "" {
		if c.nodeName, err = os.Hostname(); err != nil {
			fault("--node-name %q: not given, and the host has no name: %w", "", err)
		}
	}
	log, err = newLog(p, c.logLevel, c.logFormat)
	return dir, log, errors.Join(append(errs, err)...)
}

func newLog(p program, level, format string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(p.stderr)
	var errs []error
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		errs = append(errs, fmt.Errorf("--log-level %q: want debug, info, warning or error", level))
	}
	log.SetLevel(parsed)
	switch format {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	default:
		errs = append(errs, fmt.Errorf("--log-format %q: want text or json", format))
	}
	return log, errors.Join(errs...)
}

// run is the daemon. It ends when ctx does, and leaves everything in place.
func (c *runConfig) run(ctx context.Context, dir string, log *logrus.Logger) error {
	unlock, err := lockStateDir(c.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	bootID, err := nodestate.BootID()
	if err != nil {
		return err
	}
	host, err := link.Open()
	if err != nil {
		return err
	}
	defer host.Close()
	watcher, err := reconcile.NewWatcher(dir, filepath.Dir(c.pcidpConfig), c.attachmentsDir, filepath.Join(c.attachmentsDir, "restore"))
	if err != nil {
		return err
	}
	wake := make(chan struct{}, 1)
	awake := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	r, err := reconcile.New(reconcile.Options{
		NodeName: c.nodeName, BootID: bootID, InventoryPath: c.inventory, StateDir: c.stateDir,
		Attachments: nodestate.AttachmentDir(c.attachmentsDir), NodeENIs: manifest.New(dir), Metadata: awsnode.New(awsnode.Config{}),
		PCI: sysfs.NewFS(c.sysfs), Host: host, Config: &pcidp.File{Path: c.pcidpConfig, Now: time.Now},
		Wake: awake, Now: time.Now, Log: log,
	})
	if err != nil {
		return err
	}
	log.WithFields(logrus.Fields{"version": version, "node": c.nodeName, "nodeENIs": c.source}).Info("multi-enid started")
	go watcher.Run(ctx, awake)
	go follow(ctx, link.Subscribe, awake, log.WithField("events", "links"))
	go follow(ctx, link.SubscribeUevents, awake, log.WithField("events", "uevents"))
	reconcile.Run(ctx, r.Sync, wake)
	log.Info("multi-enid stopped")
	return nil
}

// lockStateDir makes this the only daemon of the folder.
func lockStateDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "daemon.lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock state folder %q: another multi-enid uses it; stop that one, or give this one a --state-dir of its own", dir)
		}
		return nil, fmt.Errorf("lock state folder %q: %w", dir, err)
	}
	return func() { f.Close() }, nil //nolint:errcheck,gosec // nothing was written
}

// resubscribeAfter is the wait after a subscription has failed or ended.
const resubscribeAfter = 5 * time.Second

// follow calls awake for each event, and once when a subscription has ended,
// since events may have been lost then.
func follow(ctx context.Context, subscribe func(context.Context) (<-chan struct{}, error), awake func(), log *logrus.Entry) {
	failing := false
	for {
		events, err := subscribe(ctx)
		if err != nil && !failing {
			log.WithError(err).Warn("kernel events cannot be read, looking once a minute")
		}
		if err == nil && failing {
			log.Info("kernel events can be read again")
		}
		failing = err != nil
		for err == nil {
			_, open := <-events
			if ctx.Err() == nil {
				awake()
			}
			if !open {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(resubscribeAfter):
		}
	}
}

func or(v, otherwise string) string {
	if v == "" {
		return otherwise
	}
	return v
}
