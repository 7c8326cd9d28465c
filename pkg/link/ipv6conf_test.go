package link_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestAcceptRA: the setting is the link's, of this netns.
func TestAcceptRA(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	conf := link.DefaultIPv6Conf
	for _, value := range []string{"0", "2", "1"} {
		must(t, conf.SetAcceptRA("eth1", value))
		if got, err := conf.AcceptRA("eth1"); err != nil || got != value {
			t.Errorf("AcceptRA = %q, %v; want %q", got, err, value)
		}
	}
	if got, err := conf.Forwarding("eth1"); err != nil || got != "0" {
		t.Errorf("Forwarding = %q, %v; want 0", got, err)
	}
	must(t, conf.SetAcceptRA("nosuch", "0"))
	if got, err := conf.AcceptRA("nosuch"); err != nil || got != "" {
		t.Errorf("AcceptRA of no link = %q, %v; want none", got, err)
	}
	if err := conf.SetAcceptRA("eth1", "often"); err == nil {
		t.Error("SetAcceptRA takes a word")
	}
}

// TestRestoreAcceptRA: Restore finds the setting in the folder that the handle has. A
// folder that cannot be written, or is not there, is no error of it.
func TestRestoreAcceptRA(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	want := l.State()
	if want.AcceptRA = "0"; h.IPv6Conf != link.DefaultIPv6Conf {
		t.Errorf("the kernel's folder is %q", h.IPv6Conf)
	}
	must(t, h.Restore(l, want))
	if got, err := h.IPv6Conf.AcceptRA("eth1"); err != nil || got != "0" {
		t.Errorf("accept_ra = %q, %v; want 0", got, err)
	}
	elsewhere := t.TempDir()
	must(t, os.Mkdir(filepath.Join(elsewhere, "eth1"), 0o755))
	setting := filepath.Join(elsewhere, "eth1", "accept_ra")
	must(t, os.WriteFile(setting, []byte("1"), 0o644))
	h.IPv6Conf = link.IPv6Conf(elsewhere)
	must(t, h.Restore(l, want))
	if data, err := os.ReadFile(setting); err != nil || string(data) != "0" {
		t.Errorf("in another folder: %q, %v; want 0", data, err)
	}
	must(t, os.Remove(setting))
	must(t, os.Mkdir(setting, 0o755)) // which nobody can write
	must(t, h.Restore(l, want))
	h.IPv6Conf = "/nonexistent"
	must(t, h.Restore(l, want))
	h.IPv6Conf, want.AcceptRA = link.DefaultIPv6Conf, ""
	must(t, h.IPv6Conf.SetAcceptRA("eth1", "2"))
	must(t, h.Restore(l, want))
	if got, err := h.IPv6Conf.AcceptRA("eth1"); err != nil || got != "2" {
		t.Errorf("accept_ra that is not on record = %q, %v; want 2, as it was", got, err)
	}
}
