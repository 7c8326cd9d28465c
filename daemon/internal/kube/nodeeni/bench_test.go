package nodeeni

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// attachedTo is a NodeENI as the public controller writes it, attached to n nodes including node-a.
func attachedTo(nodes, version int) string {
	var b strings.Builder
	for n := range nodes {
		name := fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", n>>8, n&255)
		if n == nodes/2 {
			name = "node-a"
		}
		fmt.Fprintf(&b, `,{"attachmentID":"eni-attach-%017x","deviceIndex":2,"dpdkBound":true,`+
			`"dpdkDriver":"vfio-pci","dpdkPCIAddress":"0000:00:07.0","dpdkResourceName":"intel.com/data","eniID":"eni-%017x","instanceID":"i-%017x",`+
			`"lastUpdated":"2026-01-02T03:04:%02dZ","mtu":9001,"nodeID":%q,"status":"attached","subnetCIDR":"10.0.2.0/24","subnetID":"subnet-0a1b2c3d4e5f60718"}`,
			n, n, n, version%60, name)
	}
	return fmt.Sprintf(`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z",`+
		`"generation":1,"managedFields":[`+
		`{"apiVersion":"networking.k8s.aws/v1alpha1","fieldsType":"FieldsV1",`+
		`"fieldsV1":{"f:status":{".":{},"f:attachments":{}}},"manager":"manager",`+
		`"operation":"Update","subresource":"status"}],"name":"dataplane","resourceVersion":"%d","uid":"u"},`+
		`"spec":{"deviceIndex":2,"enableDPDK":true,"nodeSelector":{"ng":"x"},"subnetID":"subnet-0a1b2c3d4e5f60718"},"status":{"attachments":[%s]}}`,
		version, b.String()[1:])
}

// BenchmarkForeignUpdate measures a status update about another node, from the watch's bytes to the decision not to wake.
// A controller that renews 2,000 of them in a minute sends 33 a second.
func BenchmarkForeignUpdate(b *testing.B) {
	for _, nodes := range []int{20, 500} {
		b.Run(fmt.Sprintf("attachments=%d", nodes), func(b *testing.B) {
			var stream bytes.Buffer
			const events = 32
			for i := range events {
				stream.WriteString(fakekube.Event("MODIFIED", attachedTo(nodes, i)) + "\n")
			}
			s := New(&client.Client{NodeName: "node-a"}, Options{Lookup: inventory.LookupNone, Now: time.Now, Log: fakekube.Quiet()})
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: map[string]string{"ng": "x"}}}
			nodeStore{s}.Add(node) //nolint:errcheck,gosec // a Node is never refused
			store := nodeENIStore{s}
			store.Replace(nil, "") //nolint:errcheck,gosec // nothing is never refused
			woken := 0
			s.wake = func() { woken++ }
			rewound := &rewinding{data: stream.Bytes()}
			a := newReader(rewound, maxEventBytes)
			b.SetBytes(int64(stream.Len() / events))
			b.ReportAllocs()
			for b.Loop() {
				a.more()
				_, o, err := trimmer{node: "node-a"}.event(a)
				if err := errors.Join(err, store.Update(o)); err != nil {
					b.Fatal(err)
				}
			}
			if woken != 1 {
				b.Errorf("woken %d times, want once", woken)
			}
		})
	}
}

type rewinding struct {
	data []byte
	at   int
}

func (r *rewinding) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[r.at:])
	r.at = (r.at + n) % len(r.data)
	return n, nil
}
