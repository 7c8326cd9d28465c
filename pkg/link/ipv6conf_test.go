package link_test

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
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
