package apiserver

import (
	"fmt"
	"testing"

	"k8s.io/client-go/rest"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// TestWhatIsAcceptedCanBeDecoded: the CRDs set no maximum, like the public one; the API server rejects beyond Go's int.
func TestWhatIsAcceptedCanBeDecoded(t *testing.T) {
	c := cluster.Start(t)
	accepted := 0
	for _, i := range []installation{public(), ours(t)} {
		install(t, c, i)
		for _, field := range []string{"mtu", "deviceIndex"} {
			for _, value := range append(values(), "1099511627776", "9007199254740991", "9007199254740992", "9007199254740993", "1e15", "1e18", "1e19", "1e300",
				"-1e300", "1E400") {
				body := nodeENI(fmt.Sprintf(`,"spec":{"nodeSelector":{},"subnetID":"subnet-0a1b2c3d",%q:%s}`, field, value))
				data, err := c.Admin.Discovery().RESTClient().Post().AbsPath(nodeENIs).Param("dryRun", "All").
					SetHeader("Content-Type", "application/json").WarningHandler(rest.NoWarnings{}).Body([]byte(body)).Do(t.Context()).Raw()
				if err != nil {
					continue
				}
				accepted++
				var o v1alpha1.NodeENI
				if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &o); err != nil {
					t.Errorf("%s CRD, %s %s: the API server keeps %s, which cannot be decoded: %v", i.name, field, value, data, err)
				}
			}
		}
	}
	if accepted < 40 {
		t.Errorf("%d values were accepted; that shows little", accepted)
	}
}
