package deviceplugin

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// Main runs the program with its arguments until a signal ends it, logs to out, and returns the exit status.
func Main(args []string, out io.Writer) int {
	var o Options
	f := flag.NewFlagSet("sriovdp", flag.ContinueOnError)
	f.StringVar(&o.Config, "config-file", "/etc/pcidp/config.json", "config to serve")
	f.StringVar(&o.Registry, "plugins-registry", "/var/lib/kubelet/plugins_registry", "the kubelet's folder of plugin sockets")
	f.StringVar(&o.DevicePlugins, "device-plugins", "/var/lib/kubelet/device-plugins", "folder of sockets on a node without the former")
	f.DurationVar(&o.Check, "check", 5*time.Second, "time between two looks for the sockets in device-plugins")
	f.StringVar(&o.DeviceInfo, "device-info", "/var/run/k8s.cni.cncf.io/devinfo/dp", "folder of device-info files")
	f.StringVar(&o.Routes, "routes", "/proc/net/route", "IPv4 routes of the node")
	prefix := f.String("resource-prefix", dpmodel.DefaultPrefix, "prefix of resources that do not say one")
	root := f.String("sysfs", sysfs.DefaultRoot, "where sysfs is mounted")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unknown argument %q\n", f.Arg(0))
		return 2
	}
	o.Args = []string{"-resource-prefix=" + *prefix}
	log := logrus.New()
	log.SetOutput(out)
	log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	o.Sysfs, o.Log = sysfs.NewFS(*root), log

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	err := Run(ctx, o)
	if err != nil {
		log.WithError(err).Error("exiting")
	}
	return Status(err)
}
