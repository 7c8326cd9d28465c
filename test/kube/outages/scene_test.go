package outages

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

const (
	soon     = 30 * time.Second
	recovery = 2 * time.Minute
	// calm is how long nothing may change; longer than a fault must last to be logged.
	calm = 5 * time.Second
)

const (
	lostMessage  = "API server cannot be followed, what it said last still holds"
	foundMessage = "API server is followed again"
)

type scene struct {
	*cluster.Cluster
	node   *cluster.Node
	daemon *cluster.Daemon
	enis   []cluster.ENI
}

const label = "multi-eni-test"

func stage(t *testing.T, enis int) *scene {
	t.Helper()
	s := &scene{Cluster: cluster.Start(t)}
	s.node = s.NewNode(t, "node-1", map[string]string{label: "yes"})
	for i := range enis {
		s.enis = append(s.enis, s.node.Attach(t, i+1))
		s.declare(t, s.enis[i])
	}
	s.daemon = s.node.StartDaemon(t, "--podresources-socket=", "--restart=none")
	s.eventually(t, "all ENIs ready and advertised", soon, s.enis...)
	return s
}

func name(e cluster.ENI) string { return fmt.Sprintf("dataplane-%d", e.Index) }

func (s *scene) declare(t *testing.T, e cluster.ENI) {
	t.Helper()
	s.CreateNodeENI(t, v1alpha1.NodeENI{
		ObjectMeta: metav1.ObjectMeta{Name: name(e)},
		Spec: v1alpha1.NodeENISpec{
			NodeSelector: map[string]string{label: "yes"}, SubnetID: e.SubnetID, DeviceIndex: e.Index,
			DPDKResourceName: fmt.Sprintf("intel.com/sriov_net_%d", e.Index),
		},
		Status: v1alpha1.NodeENIStatus{Attachments: []v1alpha1.ENIAttachment{s.node.Attachment(e)}},
	})
}

func (s *scene) shows(enis ...cluster.ENI) error {
	inv, err := s.node.Inventory()
	if err != nil {
		return err
	}
	var want, got []string
	for _, e := range enis {
		want = append(want, e.ID+" ready")
	}
	for _, d := range inv.Devices {
		got = append(got, fmt.Sprint(d.ENIID, " ", d.Phase))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return fmt.Errorf("inventory has %q, want %q; problems %v", got, want, problems(inv))
	}
	config, err := s.node.Config()
	if err != nil {
		return err
	}
	for _, e := range s.enis {
		if bytes.Contains(config, []byte(e.PCI)) != slices.Contains(enis, e) {
			return fmt.Errorf("config disagrees about %s: %s", e.PCI, config)
		}
	}
	if len(enis) == 0 && !bytes.Contains(config, []byte("sriov_placeholder")) {
		return fmt.Errorf("config has no placeholder: %s", config)
	}
	return nil
}

func problems(inv nodestate.Inventory) []string {
	var out []string
	for _, p := range inv.Problems {
		out = append(out, p.Message)
	}
	return out
}

func (s *scene) eventually(t *testing.T, what string, within time.Duration, enis ...cluster.ENI) {
	t.Helper()
	cluster.Eventually(t, what, within, func() error { return s.shows(enis...) })
}

func (s *scene) unchanged(t *testing.T, what string, during time.Duration, enis ...cluster.ENI) {
	t.Helper()
	if err := s.shows(enis...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	config, err := s.node.Config()
	cluster.Must(t, err)
	inv, err := s.node.Inventory()
	cluster.Must(t, err)
	cluster.Holds(t, what, during, func() error {
		now, err := s.node.Config()
		if err != nil || !bytes.Equal(now, config) {
			return fmt.Errorf("config was %s, is %s (%w)", config, now, err)
		}
		if now, err := s.node.Inventory(); err != nil || !now.UpdatedAt.Equal(inv.UpdatedAt) {
			return fmt.Errorf("inventory was %+v, is %+v (%w)", inv, now, err)
		}
		return nil
	})
}

// apiLines returns the lines about the API server since the first n of the log, as "lost REASON" and "found".
func (s *scene) apiLines(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for _, l := range s.daemon.LogSince(t, n) {
		switch l.Msg {
		case lostMessage:
			out = append(out, fmt.Sprint("lost ", l.Fields["reason"]))
		case foundMessage:
			out = append(out, "found")
		default:
			if strings.Contains(strings.ToLower(l.Raw), "eyj") {
				t.Errorf("the log has a token: %v", l)
			}
		}
	}
	return out
}

func (s *scene) awaitLines(t *testing.T, n int, within time.Duration, want ...string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("log lines %q", want), within, func() error {
		if got := s.apiLines(t, n); !slices.Equal(got, want) {
			return fmt.Errorf("logged %q", got)
		}
		return nil
	})
}
