package nodeeni

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

func TestDrivers(t *testing.T) {
	const (
		nodeURI = "GET /api/v1/nodes/node-a"
		listURI = "GET /apis/networking.k8s.aws/v1alpha1/nodeenis?limit=10"
		node    = `{"kind":"Node","apiVersion":"v1","metadata":{"name":"node-a","labels":{"ng":"multi-eni"}}}`
	)
	item := func(name, spec string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"nodeSelector":{"ng":"multi-eni"},%s}}`, name, spec)
	}
	page := func(next string, items ...string) string {
		return fmt.Sprintf(`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENIList","metadata":{"resourceVersion":"7","continue":%q},"items":[%s]}`, next,
			strings.Join(items, ","))
	}
	known := map[string]string{
		nodeURI: node,
		listURI: page("p2", item("a", `"enableDPDK":true`), item("kernel", `"deviceIndex":1`), item("b", `"enableDPDK":true,"dpdkDriver":"uio_pci_generic"`)),
		"GET /apis/networking.k8s.aws/v1alpha1/nodeenis?continue=p2&limit=500": page("", item("c", `"enableDPDK":true`),
			`{"metadata":{"name":"elsewhere"},"spec":{"nodeSelector":{"ng":"other"},"enableDPDK":true}}`,
			`{"metadata":{"name":"going","deletionTimestamp":"2026-01-02T03:04:05Z"},"spec":{"nodeSelector":{},"enableDPDK":true}}`),
	}
	got, err := driversOf(t, known)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"vfio-pci": {"a", "c"}, "uio_pci_generic": {"b"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drivers (-want +got):\n%s", diff)
	}
	for name, known := range map[string]map[string]string{
		"no permission for nodes":    {nodeURI: "403 forbidden"},
		"no permission for NodeENIs": {nodeURI: node, listURI: "403 forbidden"},
		"no CRD":                     {nodeURI: node, listURI: "404 not found"},
		"garbled":                    {nodeURI: node, listURI: "[]"},
	} {
		if got, err := driversOf(t, known); err == nil {
			t.Errorf("%s: %v; want an error", name, got)
		}
	}
}

func driversOf(t *testing.T, known map[string]string) (map[string][]string, error) {
	t.Helper()
	c, err := client.Connect(client.Config{NodeName: "node-a", Kubeconfig: fakekube.Kubeconfig(t, fakekube.Answers(t, known, 30*time.Second)),
		Log: fakekube.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return Drivers(t.Context(), c)
}
