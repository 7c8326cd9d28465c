// Package outages tests the daemon against a real API server that fails, and removals that it notices then or later.
package outages

import (
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m, "^TestRemoval$")) }
