// Package replicas tests the controller against a real API server and a stand-in of EC2, one replica and two.
package replicas

import (
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
