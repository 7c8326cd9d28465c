package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestOfferWithoutKubelet: status and doctor say that the kubelet is away, and what to do.
func TestOfferWithoutKubelet(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	offer := []string{"--offer=deviceplugin", "--kubelet-dir=" + m.path("kubelet"), "--device-info-dir=" + m.path("info"), "--podresources-socket="}
	m.declare("fast", 1, "dpdkResourceName: intel.com/fast")
	m.start(offer...)
	m.until("fast ready")
	var s status.Status
	for begin := time.Now(); s.Live == nil || len(s.Live.Offer.Resources) == 0; <-time.After(5 * time.Millisecond) {
		code, stdout, stderr := call(t.Context(), nil, "status", "--inventory="+m.path("run/inventory.json"), "--output=json")
		if code != 0 || time.Since(begin) > 30*time.Second {
			t.Fatalf("no resource is offered: %d, %s%s", code, stdout, stderr)
		}
		must(t, json.Unmarshal([]byte(stdout), &s))
	}
	if o := s.Live.Offer; o.Mode != nodestate.OfferDevicePlugin || o.Wanted != o.Mode || o.State != view.OfferWaiting ||
		o.Resources[0].Name != "intel.com/fast" || o.Resources[0].Registered {
		t.Errorf("offer %+v", o)
	}
	_, report, _ := m.doctor(offer...)
	wantLine(t, report, "ok    offer: mode deviceplugin, by --offer")
	wantLine(t, report, "FAIL  offer: there is no folder /node/kubelet/device-plugins; mount the host's")
	must(t, os.MkdirAll(m.path("kubelet/device-plugins"), 0o750))
	_, report, _ = m.doctor(offer...)
	wantLine(t, report, "FAIL  offer: there is no /node/kubelet/device-plugins/kubelet.sock, so no device can be offered; start the kubelet")
	_, report, _ = m.doctor("--offer=pcidp")
	if strings.Contains(report, " offer: ") {
		t.Errorf("doctor looks at the offer in mode pcidp:\n%s", report)
	}
	m.end()
}
