package kubeletmodel

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const nic = "intel.com/nic"

// lab is a kubelet in memory, with plugins.
type lab struct {
	*testing.T
	o       Options
	sockets Sockets
	k       *Kubelet
}

func newLab(t *testing.T, v Version) *lab {
	l := &lab{T: t, o: Options{Version: v, Node: NewNode()}}
	l.o.Dial = l.sockets.Dial
	l.k = Start(l.o)
	t.Cleanup(func() { l.k.Kill() })
	return l
}

func (l *lab) restart() {
	l.k.Kill()
	for _, path := range l.sockets.Paths() {
		l.sockets.Remove(path)
	}
	l.k = Start(l.o)
	synctest.Wait()
}

func (l *lab) serve(f *Plugin) *Listener {
	l.Helper()
	listener := l.sockets.Listen(f.Socket, f)
	if err := l.register(f); err != nil {
		l.Fatal(err)
	}
	return listener
}

func (l *lab) register(f *Plugin) error {
	err := l.k.Register(l.Context(), &deviceapi.RegisterRequest{Version: deviceapi.Version, Endpoint: f.Socket, ResourceName: f.Resource})
	synctest.Wait()
	return err
}

func (l *lab) expect(allocatable ...string) {
	l.Helper()
	synctest.Wait()
	if diff := cmp.Diff(allocatable, l.k.Allocatable()[nic]); diff != "" {
		l.Errorf("allocatable (-want +got):\n%s", diff)
	}
}

func (l *lab) admit(pod string, n int) error {
	c := Container{Name: "c", Wants: map[string]int{nic: n}}
	l.o.Node.AddPod(Pod{UID: pod, Containers: []Container{c}})
	return l.k.Admit(l.Context(), pod, c)
}

func (l *lab) start(pod string) error {
	return l.k.StartContainer(l.Context(), pod, Container{Name: "c", Wants: map[string]int{nic: 1}})
}

func in(t *testing.T, v Version, f func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newLab(t, v)) })
}

// The end of a plugin that has been replaced drops its successor, up to v1.36.
func TestHandover(t *testing.T) {
	for v, after := range map[Version][]string{V136: nil, V137: {"a", "b"}} {
		in(t, v, func(l *lab) {
			was, is := NewPlugin(nic, "old.sock", "a", "b"), NewPlugin(nic, "new.sock", "a", "b")
			stop := l.serve(was)
			l.expect("a", "b")
			l.serve(is)
			l.expect("a", "b")
			was.Send("a")
			l.expect("a") // the list of either counts
			is.Send("a", "b")
			l.expect("a", "b")
			stop.Close()
			l.expect(after...)
			if v == V136 {
				if err := l.register(is); err != nil {
					l.Fatal(err)
				}
				l.expect("a", "b")
			}
			is.Send("!a", "b")
			l.expect("b")
		})
	}
}

// A second registration of a connected socket is refused by v1.37, and the socket can never register again.
func TestRegisterTwice(t *testing.T) {
	in(t, V137, func(l *lab) {
		f := NewPlugin(nic, "one.sock", "a")
		listener := l.serve(f)
		if err := l.register(f); err == nil {
			l.Error("registered twice")
		}
		l.expect("a")
		listener.Close()
		l.expect("a") // nobody notices
		l.sockets.Listen(f.Socket, f)
		if err := l.register(f); err == nil {
			l.Error("registered again")
		}
	})
	in(t, V136, func(l *lab) {
		f := NewPlugin(nic, "one.sock", "a")
		l.serve(f)
		if err := l.register(f); err != nil {
			l.Error(err)
		}
		l.expect("a")
		if f.opened != 2 {
			l.Errorf("%d streams", f.opened)
		}
	})
}

// A resource whose plugin has gone keeps its endpoint for the grace period, and then starts no container.
func TestGracePeriod(t *testing.T) {
	in(t, V136, func(l *lab) {
		stop := l.serve(NewPlugin(nic, "one.sock", "a", "b"))
		if err := l.admit("p", 1); err != nil {
			l.Fatal(err)
		}
		stop.Close()
		l.expect()
		time.Sleep(GracePeriod)
		capacity, allocatable := l.k.Capacity()
		if capacity[nic] != 2 || allocatable[nic] != 0 {
			l.Errorf("capacity %v, allocatable %v", capacity, allocatable)
		}
		if err := l.start("p"); err != nil {
			l.Error(err)
		}
		if err := l.admit("q", 1); !errors.Is(err, ErrNoneHealthy) {
			l.Error(err)
		}
		time.Sleep(time.Second)
		if capacity, _ := l.k.Capacity(); len(capacity) != 0 {
			l.Errorf("capacity %v after the grace period", capacity)
		}
		if err := l.start("p"); !errors.Is(err, ErrNoEndpoint) {
			l.Error(err)
		}
		if err := l.admit("q", 1); !errors.Is(err, ErrUnregistered) {
			l.Error(err)
		}
	})
}

func TestAllocate(t *testing.T) {
	in(t, V136, func(l *lab) {
		f := NewPlugin(nic, "one.sock", "a", "b", "c")
		f.Prefers = true
		l.serve(f)
		if err := l.admit("p", 1); err != nil {
			l.Fatal(err)
		}
		held, pods := l.k.List()
		if diff := cmp.Diff(map[Holder]map[string][]string{{"p", "c"}: {nic: {"c"}}}, held); diff != "" || !cmp.Equal(pods, []string{"p"}) {
			l.Errorf("%v %s", pods, diff)
		}
		if err := l.admit("q", 3); !errors.Is(err, ErrTooFew) {
			l.Error(err)
		}
		if err := l.admit("p", 2); !errors.Is(err, ErrChanged) {
			l.Error(err)
		}
		f.Send("a", "b", "!c")
		l.expect("a", "b")
		if err := l.admit("p", 1); !errors.Is(err, ErrHeldSick) {
			l.Error(err)
		}
		if err := l.start("p"); err != nil {
			l.Error(err)
		}
		f.Refuse.Store(true)
		if err := l.admit("q", 2); !errors.Is(err, ErrPlugin) {
			l.Error(err)
		}
		f.Refuse.Store(false)
		if err := l.admit("q", 2); err != nil {
			l.Error(err)
		}
		l.o.Node.EndPod("q")
		if err := l.admit("r", 2); err != nil {
			l.Error(err)
		}
	})
}

// A restarted kubelet has the allocations, and no devices until their plugin registers.
func TestKubeletRestart(t *testing.T) {
	in(t, V136, func(l *lab) {
		f := NewPlugin(nic, "one.sock", "a", "b")
		l.serve(f)
		if err := l.admit("p", 1); err != nil {
			l.Fatal(err)
		}
		l.restart()
		l.k.ForgetSources()
		l.expect()
		if held, pods := l.k.List(); len(held)+len(pods) != 0 {
			l.Error(held, pods)
		}
		if err := l.admit("p", 1); err != nil { // it runs
			l.Error(err)
		}
		if err := l.admit("q", 1); !errors.Is(err, ErrNoneHealthy) {
			l.Error(err)
		}
		l.k.LearnSources()
		if len(f.streams) != 0 || len(l.sockets.Paths()) != 0 {
			l.Errorf("%d streams, sockets %q", len(f.streams), l.sockets.Paths())
		}
		if err := l.start("p"); err != nil {
			l.Error(err)
		}
		if err := l.admit("p", 1); !errors.Is(err, ErrNoneHealthy) {
			l.Error(err)
		}
		l.serve(f)
		if err := l.admit("q", 1); err != nil {
			l.Error(err)
		}
		held, _ := l.k.List()
		want := map[Holder]map[string][]string{{"p", "c"}: {nic: {"a"}}, {"q", "c"}: {nic: {"b"}}}
		if diff := cmp.Diff(want, held); diff != "" {
			l.Error(diff)
		}
	})
}

// The plugin manager disconnects the current client of a resource once more when the socket of another is gone.
func TestRegistry(t *testing.T) {
	for v, drops := range map[Version]bool{V136: true, V137: false} {
		in(t, v, func(l *lab) {
			was, is := NewPlugin(nic, "old.sock", "a", "b"), NewPlugin(nic, "new.sock", "a", "b")
			listener := l.sockets.Listen(was.Socket, was)
			l.k.SocketAdded(was.Socket)
			l.k.ReconcileRegistry(l.Context())
			l.expect("a", "b")
			l.serve(is)
			listener.Close()
			l.k.SocketRemoved(was.Socket)
			synctest.Wait()
			if drops {
				l.expect()
				if err := l.register(is); err != nil {
					l.Fatal(err)
				}
			}
			l.expect("a", "b")
			l.k.ReconcileRegistry(l.Context())
			if drops {
				l.expect()
			} else {
				l.expect("a", "b")
			}
			l.k.ReconcileRegistry(l.Context())
		})
	}
}

// A device that is unlisted between the plugin's answer to Allocate and the kubelet's use of it crashes the kubelet.
func TestUnlistedWhileAllocated(t *testing.T) {
	in(t, V136, func(l *lab) {
		f := NewPlugin(nic, "one.sock", "a")
		l.k.o.Pause = func(p Point, _ string) {
			if p == Answered {
				time.Sleep(time.Second)
			}
		}
		l.serve(f)
		go func() { _ = l.admit("p", 1) }()
		synctest.Wait()
		f.Send()
		time.Sleep(2 * time.Second)
		if l.k.Crashed() == "" {
			l.Error("not crashed")
		}
	})
}

// A kubelet that hangs answers nothing, and goes on after that.
func TestHang(t *testing.T) {
	in(t, V136, func(l *lab) {
		f := NewPlugin(nic, "one.sock", "a")
		l.serve(f)
		l.k.Hang(true)
		f.Send("!a")
		l.expect("a")
		l.k.Hang(false)
		l.expect()
	})
}
