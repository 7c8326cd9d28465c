package apiserver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// TestDaemonBeforeTheCRDs: a daemon that starts before the CRDs says so once, removes nothing, and then begins.
func TestDaemonBeforeTheCRDs(t *testing.T) {
	const within = 2 * time.Minute
	c := cluster.Start(t)
	for _, plural := range []string{"nodeenis", "eninodestates"} {
		c.DeleteCRD(t, plural)
	}
	n := c.NewNode(t, "node-1", nil)
	e := n.Attach(t, 1)
	d := n.StartDaemon(t, unmanaged()...)
	untilSaid(t, n, " NodeENIsUnreadable")
	c.InstallCRDs(t)
	declare(t, c, n, "a", e)
	cluster.Eventually(t, "ready", within, func() error {
		got, err := said(n)
		if err == nil && !slices.Equal(got, []string{"a ready"}) {
			err = fmt.Errorf("inventory says %q", got)
		}
		return err
	})
	cluster.Eventually(t, "ENINodeState", within, func() error {
		_, err := c.NodeState(t, n.Name)
		return err
	})
	for message, want := range map[string]int{
		"API server cannot be followed, what it said last still holds": 1, "API server is followed again": 1,
	} {
		cluster.Eventually(t, message, within, func() error { return lines(t, d, message, want) })
	}
}
