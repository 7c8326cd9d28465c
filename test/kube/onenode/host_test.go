package onenode

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

func (s *stage) files() (all []string) {
	s.Helper()
	for _, dir := range []string{node.CNIBinDir, "/etc/multi-eni", "/etc/pcidp", "/run/multi-eni", "/var/lib/multi-eni", nodestate.DefaultAttachmentsDir,
		leases.DefaultDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "metacni" {
				all = append(all, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.Fatal(err)
		}
	}
	return all
}

func (s *stage) mountSysfs() {
	s.Helper()
	for _, dir := range []string{"devices/pci0000:00", "bus/pci", "class/net"} {
		from, to := filepath.Join(s.host.Sysfs, dir), filepath.Join(sysfs.DefaultRoot, dir)
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			s.Fatalf("put %s over %s: %v; the daemon's pod finds its devices only where this machine has that folder", from, to, err)
		}
		s.Cleanup(func() { s.must(unix.Unmount(to, unix.MNT_DETACH)) })
	}
}

func (s *stage) serveIMDS() {
	s.Helper()
	lo, err := netlink.LinkByName("lo")
	s.must(err)
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP(imdsAddress))}
	s.must(netlink.AddrAdd(lo, addr))
	s.Cleanup(func() { s.must(netlink.AddrDel(lo, addr)) })
	s.imds = fakeimds.New(fakeimds.Config{State: s.metadata})
	l, err := (&net.ListenConfig{}).Listen(s.Context(), "tcp", net.JoinHostPort(imdsAddress, "80"))
	s.must(err)
	web := &http.Server{Handler: s.imds, ReadHeaderTimeout: callTimeout}
	go web.Serve(l) //nolint:errcheck // ends with the test
	s.Cleanup(func() {
		s.must(web.Close())
		if unknown := s.imds.Unknown(); len(unknown) > 0 {
			s.Errorf("metadata service: requests that it does not know: %q", unknown)
		}
	})
}
