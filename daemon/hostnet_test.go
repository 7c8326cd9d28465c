package main

import "testing"

// TestHostHasTheMount: the daemon restores a link's accept_ra in the folder of --sysctls.
// A container cannot write the kernel's own folder.
func TestHostHasTheMount(t *testing.T) {
	c := nodeFlags{sysctls: "/host/proc/sys"}
	h, err := c.openHost()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.IPv6Conf != "/host/proc/sys/net/ipv6/conf" {
		t.Errorf("the host's IPv6 settings are in %q, want the folder of --sysctls", h.IPv6Conf)
	}
}
