package deviceplugin

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// restart makes the peer another kubelet, which removes all sockets.
func (p *peer) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.identity = "2"
	p.servers = map[device.ResourceName]deviceapi.DevicePluginServer{}
}

// dial registers as a kubelet does: it waits for a socket that is not there.
func (p *peer) dial(ctx context.Context, name device.ResourceName) error {
	p.mu.Lock()
	served := p.servers[name] != nil
	p.mu.Unlock()
	if !served {
		<-ctx.Done()
		return ctx.Err()
	}
	p.listen(name, false)
	return nil
}

// TestNewKubelet: a kubelet that starts while the daemon registers with the one before has the resources at once, though
// it waits 10 s for a socket that it has removed itself.
func TestNewKubelet(t *testing.T) {
	for name, during := range map[string]bool{"before the registration": false, "during the registration": true} {
		t.Run(name, func(t *testing.T) {
			k := newPeer()
			bubble(t, k, nil, func(p *Plugin, _ *logtest.Hook) {
				time.Sleep(2 * calmTime)
				k.mu.Lock()
				k.register = k.dial
				if during {
					k.register = func(ctx context.Context, name device.ResourceName) error {
						if k.Identity() == "1" {
							k.restart()
						}
						return k.dial(ctx, name)
					}
				}
				k.mu.Unlock()
				if !during {
					k.restart()
				}
				for _, r := range []device.ResourceName{resourceA, resourceB} {
					k.open(r)[0].close()
				}
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
				if n := k.registrations(resourceA); !during && n != 1 {
					t.Errorf("%d registrations, though nothing listens for the new kubelet", n)
				}
				k.changed()
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
				if s := p.State(); !s.Registered() {
					t.Errorf("state %+v", s)
				}
			})
		})
	}
}
