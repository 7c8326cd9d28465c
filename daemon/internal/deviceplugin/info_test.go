package deviceplugin

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestInfoUnwritable: the state has the fault of a folder that cannot be written, before any pod fails.
func TestInfoUnwritable(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		log, _ := logtest.NewNullLogger()
		p := New(Options{Kubelet: newPeer(), DeviceInfo: filepath.Join(blocked, "dp"), Now: time.Now, Log: log})
		p.Set([]device.ResourceName{resourceA}, []offer.Device{enaDevice(resourceA, "0000:00:06.0")})
		ctx, stop := context.WithCancel(t.Context())
		go p.Run(ctx)
		synctest.Wait()
		if s := p.State(); s.Resources[0].InfoFault == nil || !s.Registered() {
			t.Errorf("state %+v", s)
		}
		stop()
		synctest.Wait()
	})
}
