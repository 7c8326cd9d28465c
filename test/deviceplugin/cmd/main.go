// Command cmd is a stand-in for the SR-IOV network device plugin; see package deviceplugin.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

func main() {
	os.Exit(run())
}

func run() (status int) {
	var o deviceplugin.Options
	flag.StringVar(&o.Config, "config-file", "/etc/pcidp/config.json", "config to serve")
	flag.StringVar(&o.Registry, "plugins-registry", "/var/lib/kubelet/plugins_registry", "the kubelet's folder of plugin sockets")
	flag.StringVar(&o.Routes, "routes", "/proc/net/route", "IPv4 routes of the node")
	prefix := flag.String("resource-prefix", dpmodel.DefaultPrefix, "prefix of resources that do not say one")
	root := flag.String("sysfs", sysfs.DefaultRoot, "where sysfs is mounted")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unknown argument %q\n", flag.Arg(0))
		return 2
	}
	o.Args = []string{"-resource-prefix=" + *prefix}
	log := logrus.New()
	log.SetOutput(os.Stdout)
	log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	o.Sysfs, o.Log = sysfs.NewFS(*root), log

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	err := deviceplugin.Run(ctx, o)
	if err != nil {
		log.WithError(err).Error("exiting")
	}
	return deviceplugin.Status(err)
}
