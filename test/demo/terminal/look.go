package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// usage explains look; %[1]s is the program's name.
const usage = `       %[1]s pod NAME address IFNAME  as: nsenter --net=/run/netns/NAME ip -brief address show IFNAME
       %[1]s pod NAME ping ADDRESS    as: nsenter --net=/run/netns/NAME ping -c 1 ADDRESS
       %[1]s host link IFNAME         as: ip -brief link show IFNAME`

// ErrUsage says that there is no such command.
var ErrUsage = errors.New("no such command")

// look stands in for nsenter, ip and ping, which may be missing.
func look(ctx context.Context, out io.Writer, args []string) error {
	switch {
	case len(args) == 4 && args[0] == "pod" && args[2] == "address":
		return nstest.In("/run/netns/"+args[1], func() error { return addresses(out, args[3]) })
	case len(args) == 4 && args[0] == "pod" && args[2] == "ping":
		return ping(ctx, out, "/run/netns/"+args[1], args[3])
	case len(args) == 3 && args[0] == "host" && args[1] == "link":
		return link(out, args[2])
	}
	return ErrUsage
}

func addresses(out io.Writer, name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	fmt.Fprintf(out, "%s  %s", name, l.Attrs().OperState)
	for _, a := range list {
		fmt.Fprintf(out, "  %s", a.IPNet)
	}
	fmt.Fprintln(out)
	return nil
}

func ping(ctx context.Context, out io.Writer, netns, address string) error {
	to, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	took, err := nstest.Ping(ctx, netns, to)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "reply from %s after %s\n", to, took.Round(time.Microsecond))
	return nil
}

func link(out io.Writer, name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	fmt.Fprintf(out, "%s  %s  %s\n", name, l.Attrs().OperState, l.Attrs().HardwareAddr)
	return nil
}
