// Package apiserver tests the daemon against a real API server, without a kubelet.
package apiserver

import (
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
