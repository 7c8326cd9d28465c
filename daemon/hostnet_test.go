package main

import "testing"

// TestHostHasTheMount: what the daemon gives back to a link, accept_ra too, it writes into
// the folder of --sysctls. In a container the kernel's own folder cannot be written.
func TestHostHasTheMount(t *testing.T) {
	c := nodeFlags{sysctls: "/host/proc/sys"}
	h, err := c.openHost()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.IPv6Conf != "/host/proc/sys/net/ipv6/conf" {
		t.Errorf("the host's IPv6 settings are in %q, want those of the mount", h.IPv6Conf)
	}
}
