package attach_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// announced returns the routes that the host has learned from router advertisements.
func announced(t *testing.T) []netlink.Route {
	t.Helper()
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	must(t, err)
	return routes
}

// flood sends an advertisement each millisecond, until the test ends.
func (e *env) flood() {
	e.t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := e.announceRouter()
		if err == nil {
			break
		}
		if time.Since(begin) > 20*time.Second { // the bridge has a link-local address by then
			e.t.Fatalf("announce a router: %v", err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	e.t.Cleanup(func() {
		close(stop)
		if err := <-stopped; err != nil {
			e.t.Errorf("announce a router: %v", err)
		}
	})
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-time.After(time.Millisecond):
			}
			if err := e.announceRouter(); err != nil {
				stopped <- err
				return
			}
		}
	}()
}

// TestNoRouterAfterDel: pods come and go while advertisements arrive all the time. The
// host learns no router through an ENI that ignores advertisements. The kernel asks for
// routers a second after link-up.
func TestNoRouterAfterDel(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.flood()
	conf := map[string]any{"select": map[string]any{"nodeENI": "a"}}
	for i := range 50 {
		e.roundTrip(conf)
		if learned := announced(t); len(learned) > 0 {
			t.Fatalf("after DEL %d: %v", i, learned)
		}
	}
	for begin := time.Now(); time.Since(begin) < 2*time.Second; time.Sleep(20 * time.Millisecond) {
		if learned := announced(t); len(learned) > 0 {
			t.Fatalf("%s after the last DEL: %v", time.Since(begin), learned)
		}
	}
	h := hostLinks(t)
	must(t, h.IPv6Conf.SetAcceptRA("eth1", "1"))
	for begin := time.Now(); len(announced(t)) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the host learns no router from an ENI that accepts advertisements: this test hears none")
		}
	}
}

func TestRouterOnIdleENI(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	h := hostLinks(t)
	must(t, h.IPv6Conf.SetAcceptRA("eth1", "1"))
	e.flood()
	heard := 0
	for range 50 {
		heard += len(announced(t))
		e.roundTrip(map[string]any{"select": map[string]any{"nodeENI": "a"}})
		if now, err := h.IPv6Conf.AcceptRA("eth1"); err != nil || now != "1" {
			t.Fatalf("accept_ra after DEL: %q, %v; want 1, as before", now, err)
		}
	}
	if heard == 0 {
		t.Error("there never was an announced route before an ADD")
	}
}

// TestAcceptRAComesBack: the returned link has its accept_ra of before ADD, on every way
// home. If the record has none, it keeps the kernel's default.
func TestAcceptRAComesBack(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	h := hostLinks(t)
	home := e.waysHome(h)
	for _, accept := range []string{"0", "2", "1"} {
		for road, come := range home {
			must(t, h.IPv6Conf.SetAcceptRA("eth1", accept))
			want := come(t)
			if want == "" {
				want = accept
			}
			if got, err := h.IPv6Conf.AcceptRA("eth1"); err != nil || got != want {
				t.Errorf("%s: accept_ra is %q, %v; want %q", road, got, err, want)
			}
			if up := strings.Contains(e.snapshot(), "Name:eth1 AltNames:[enp0s6 ens6] MAC:02:00:00:00:00:01 MTU:1500 Up:true"); !up {
				t.Errorf("%s: the link is not as before:\n%s", road, e.snapshot())
			}
		}
	}
}

// waysHome returns the ways by which eth1 leaves and returns to the host. Each returns the
// accept_ra that it must have then; "" for the earlier one.
func (e *env) waysHome(h *link.Handle) map[string]func(*testing.T) string {
	conf, withDelegate := e.selectA(), e.selectA()
	withDelegate["delegate"] = map[string]any{"type": "host-device", "deviceField": "device"}
	return map[string]func(*testing.T) string{
		"DEL": func(t *testing.T) string {
			e.roundTrip(conf)
			return ""
		},
		"DEL of host-device": func(t *testing.T) string {
			e.roundTrip(withDelegate)
			return ""
		},
		"a failed ADD": func(t *testing.T) string {
			_, err := run(&attach.Plugin{Before: func(step string) error {
				if step == "complete" {
					return errors.New("injected")
				}
				return nil
			}}, "ADD", e.pod(conf))
			wantCode(t, err, 999, "injected")
			return ""
		},
		"GC": func(t *testing.T) string {
			e.add(e.pod(conf))
			args := e.pod(map[string]any{"cni.dev/valid-attachments": []any{}})
			args.ContainerID, args.Netns, args.IfName = "", "", ""
			e.succeeds("GC", args)
			return ""
		},
		"by itself, and the next ADD": func(t *testing.T) string {
			args := e.pod(conf)
			e.add(args)
			moveHome(t, args, "stray0")
			next := e.pod(conf)
			must(t, nstest.DeleteNetns(args.Netns)) // without DEL
			e.add(next)
			e.del(next)
			e.del(args)
			return ""
		},
		"a restore record, and the next ADD": func(t *testing.T) string {
			args := e.pod(conf)
			e.add(args)
			r, err := e.records().Lock(t.Context(), nodestate.AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName})
			must(t, err)
			device := r.Device
			r.Close()
			e.del(args)
			must(t, h.IPv6Conf.SetAcceptRA("eth1", "1"))
			must(t, e.records().SaveRestore(nodestate.Restore{BootID: e.inv.BootID, Device: device}))
			e.roundTrip(conf)
			return ""
		},
		"a record of an older version": func(t *testing.T) string {
			args := e.pod(conf)
			e.add(args)
			e.rewrite(args, func(a *nodestate.Attachment) { a.Device.Link.AcceptRA = "" })
			e.del(args)
			return "1"
		},
	}
}
