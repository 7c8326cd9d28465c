package onenode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

// peoplesEntry has people's config of the device plugin end with this entry, in place of the one before; nil for none.
func (s *stage) peoplesEntry(entry map[string]any) {
	s.Helper()
	b, err := os.ReadFile(s.config())
	s.must(err)
	var c struct {
		ResourceList []map[string]any `json:"resourceList"`
	}
	s.must(json.Unmarshal(b, &c))
	c.ResourceList = slices.DeleteFunc(c.ResourceList, func(e map[string]any) bool { return e["deviceType"] != nil })
	if entry != nil {
		entry["deviceType"] = "netDevice"
		c.ResourceList = append(c.ResourceList, entry)
	}
	b, err = json.Marshal(c)
	s.must(err)
	s.must(os.WriteFile(s.config()+".new", b, 0o644))
	s.must(os.Rename(s.config()+".new", s.config()))
}

// TestOfferConflict: an entry of people's that offers a resource or a device of ours keeps the daemon from taking over.
func TestOfferConflict(t *testing.T) {
	s := newStage(t, 1)
	s.unlabel()
	a := s.enis[0]
	s.startDevicePlugin()
	s.peoplesEntry(map[string]any{"resourcePrefix": "intel.com", "resourceName": "net_a", "selectors": map[string]any{"drivers": []any{"i40evf"}}})
	s.must(s.declare(a))
	cluster.Eventually(t, "ready", settle, s.lists(a, nodestate.PhaseReady))
	s.wish("deviceplugin")
	s.refused("has the name of resource intel.com/net_a")
	s.peoplesEntry(map[string]any{"resourcePrefix": "people.example", "resourceName": "nics", "selectors": map[string]any{"drivers": []any{"ena"}}})
	s.refused("entry people.example/nics")
	s.peoplesEntry(nil)
	took := cluster.Eventually(t, "takeover without the entry", restart, s.offering("deviceplugin", "Offered"))
	t.Logf("entry deleted to Offered: %v", took.Round(time.Millisecond))
	s.must(errors.Join(s.kubeletLists(a)(), s.offers()()))
}

// refused waits until the daemon reports why it refuses the takeover, and checks that nothing changes then.
func (s *stage) refused(why string) {
	s.Helper()
	var before []byte
	cluster.Eventually(s.T, "refusal", settle, func() error {
		mode, state, problems, err := s.report()
		says := func(p string) bool { return strings.HasPrefix(p, "OfferedTwice: ") && strings.Contains(p, why) }
		if err == nil && (mode != "pcidp" || state != "TakeoverRefused" || !slices.ContainsFunc(problems, says)) {
			err = fmt.Errorf("offer %q, %q, Problems %q", mode, state, problems)
		}
		before, _ = os.ReadFile(s.config())
		return err
	})
	cluster.Holds(s.T, "nothing changes", 4*time.Second, func() error {
		m, err := s.memory()
		now, readErr := os.ReadFile(s.config())
		sockets, globErr := filepath.Glob(node.DevicePluginsDir + "/multi-eni-*")
		if !bytes.Equal(now, before) {
			err = errors.Join(err, fmt.Errorf("config\n%s\nand before\n%s", now, before))
		}
		return errors.Join(err, readErr, globErr, want(string(m.Mode), ""), none("names", m.Names), none("sockets", sockets))
	})
}
