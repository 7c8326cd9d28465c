package fakeec2

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// direct calls an action without the SDK, whose own work is larger than the fake's.
func direct(t *testing.T, s *Server, action string, kv ...string) string {
	t.Helper()
	form := url.Values{"Action": {action}, "Version": {version}}
	for i := 0; i < len(kv); i += 2 {
		form.Set(kv[i], kv[i+1])
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(form.Encode()))
	r.Header.Set("Authorization", signed)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s %v: %s", action, kv, w.Body)
	}
	return w.Body.String()
}

func between(s, from, to string) string {
	_, rest, _ := strings.Cut(s, from)
	value, _, _ := strings.Cut(rest, to)
	return value
}

var fleet = flag.Int("fleet", 600, "nodes of TestFleet")

// TestFleet makes and removes the ENIs of many nodes. With -fleet=5000, a call that looks at each ENI, address or token would take minutes.
func TestFleet(t *testing.T) {
	nodes, each := *fleet, 3
	cfg := Config{Subnets: []Subnet{{ID: "subnet-1", IPv4: netip.MustParsePrefix("10.0.0.0/16")}}, Lag: time.Second}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cfg.Now = func() time.Time { now = now.Add(time.Millisecond); return now }
	for n := range nodes {
		cfg.Instances = append(cfg.Instances, Instance{ID: fmt.Sprintf("i-%05d", n), Type: "c5n.xlarge", SubnetID: "subnet-1"})
	}
	s := New(cfg)
	began := time.Now()
	type made struct{ eni, attachment string }
	var all []made
	for n := range nodes {
		for k := range each {
			slot := fmt.Sprintf("slot-%d-%d", n, k)
			eni := between(direct(t, s, "CreateNetworkInterface", "SubnetId", "subnet-1", "ClientToken", slot, "TagSpecification.1.ResourceType",
				"network-interface",
				"TagSpecification.1.Tag.1.Key", "slot", "TagSpecification.1.Tag.1.Value", slot, "TagSpecification.1.Tag.2.Key", "cluster",
				"TagSpecification.1.Tag.2.Value", "blue"), "<networkInterfaceId>", "<")
			attachment := between(direct(t, s, "AttachNetworkInterface", "NetworkInterfaceId", eni, "InstanceId", fmt.Sprintf("i-%05d", n),
				"DeviceIndex", fmt.Sprint(k+1), "NetworkCardIndex", "0"), "<attachmentId>", "<")
			all = append(all, made{eni, attachment})
		}
	}
	now = now.Add(time.Second)
	for n := range nodes {
		found := direct(t, s, "DescribeNetworkInterfaces", "Filter.1.Name", "tag:slot", "Filter.1.Value.1", fmt.Sprintf("slot-%d-1", n))
		if !strings.Contains(found, all[n*each+1].eni) {
			t.Fatal(found)
		}
		if found = direct(t, s, "DescribeNetworkInterfaces", "Filter.1.Name", "attachment.instance-id", "Filter.1.Value.1", fmt.Sprintf("i-%05d",
			n)); strings.Count(found,
			"<networkInterfaceId>") != each+1 {
			t.Fatal(found)
		}
	}
	pages, count, token := 0, 0, []string{}
	for {
		found := direct(t, s, "DescribeNetworkInterfaces", append([]string{"MaxResults", "1000", "Filter.1.Name", "tag:cluster", "Filter.1.Value.1",
			"blue"}, token...)...)
		pages, count = pages+1, count+strings.Count(found, "<networkInterfaceId>")
		next := between(found, "<nextToken>", "<")
		if next == "" {
			break
		}
		token = []string{"NextToken", next}
	}
	if pages != (nodes*each+999)/1000 || count != nodes*each {
		t.Errorf("%d pages, %d ENIs", pages, count)
	}
	for _, m := range all {
		direct(t, s, "DetachNetworkInterface", "AttachmentId", m.attachment)
		direct(t, s, "DeleteNetworkInterface", "NetworkInterfaceId", m.eni)
	}
	if sum := s.Tally(""); sum.Mutating != 4*nodes*each {
		t.Errorf("%+v", sum)
	}
	t.Logf("%d calls in %v", s.Tally("").Calls, time.Since(began))
}
