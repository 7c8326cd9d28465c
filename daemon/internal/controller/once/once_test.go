package once_test

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/once"
)

func TestOnce(t *testing.T) {
	var m once.Memory
	if !m.Once("a", "") || m.Once("a", "") || !m.Once("a", "x") || !m.Once("b", "x") || m.Once("a", "x") {
		t.Errorf("told again, or not: %v", m)
	}
	if !m.Forget("a") || m.Forget("a") || !m.Once("a", "x") {
		t.Errorf("forgotten, or not: %v", m)
	}
}
