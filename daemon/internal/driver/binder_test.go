package driver

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

const bound = device.PCIAddress("0000:00:07.0")

type bench struct {
	*testing.T
	*Binder
	fn       sysfs.PCIFunction
	obstacle *Obstacle
	bindErr  error
	kept     []problem.Finding // routes that must stay
	down     []int
	woken    chan struct{}
	now      time.Time
}

func newBench(t *testing.T) *bench {
	log, _ := logtest.NewNullLogger()
	log.SetLevel(logrus.PanicLevel)
	b := &bench{T: t, fn: sysfs.PCIFunction{Address: bound, Driver: "ena", Instance: 1}, woken: make(chan struct{}, 9), now: time.Unix(1000, 0)}
	records := nodestate.AttachmentDir(t.TempDir())
	b.Binder = NewBinder(BinderOptions{
		BootID: "boot", Attachments: records, Locks: devicelock.Locker{BootID: "boot", Attachments: records, PCI: b}, Actions: b, Links: b,
		Wake: func() { b.woken <- struct{}{} }, Log: log,
	})
	return b
}

func (b *bench) PCI(device.PCIAddress) (sysfs.PCIFunction, error) { return b.fn, nil }
func (b *bench) SetDown(index int) error                          { b.down = append(b.down, index); return nil }

func (b *bench) ClearForDriver(_ nodestate.Device, l link.Link) (link.Link, []problem.Finding, error) {
	return l, b.kept, nil
}

func (b *bench) Obstacle(sysfs.PCIFunction, string, map[device.PCIAddress]sysfs.PCIFunction, func(device.PCIAddress) bool) (*Obstacle, error) {
	return b.obstacle, nil
}

func (b *bench) Open(sysfs.PCIFunction) (string, bool, error) { return "", false, nil }

func (b *bench) Bind(_ sysfs.PCIFunction, to string, _ *os.File) error {
	if b.bindErr == nil {
		b.fn.Driver = to
	}
	return b.bindErr
}

// step asks for the driver, "" for none, and returns the reasons of the Problems.
func (b *bench) step(to string) (reasons []nodestate.Reason, after time.Duration) {
	src := inventory.Sources{Now: b.now, Functions: inventory.Known(map[device.PCIAddress]sysfs.PCIFunction{bound: b.fn})}
	var res inventory.Result
	if to != "" {
		res.DriverChanges = []inventory.DriverChange{{Device: nodestate.Device{ENIID: "eni-00000000000000001", MAC: "02:00:00:00:00:01", PCIAddress: bound},
			To: to, Link: link.Link{Index: 7, Name: "eth1", MAC: "02:00:00:00:00:01", MTU: 1500}}}
	}
	after = b.Step(b.Context(), src, res)
	for _, f := range b.Problems() {
		reasons = append(reasons, f.Reason)
	}
	return reasons, after
}

func (b *bench) end() error {
	b.Helper()
	<-b.woken
	ended := b.TakeEnded(b.now)
	if len(ended) != 1 || ended[0].PCIAddress != bound {
		b.Fatalf("ended %+v, want one change", ended)
	}
	return ended[0].Err
}

func TestBind(t *testing.T) {
	b := newBench(t)
	if reasons, after := b.step("vfio-pci"); len(reasons) > 0 || after != 0 {
		t.Errorf("reasons %v, again after %v", reasons, after)
	}
	if err := b.end(); err != nil || b.fn.Driver != "vfio-pci" || len(b.Jobs()) > 0 {
		t.Errorf("error %v, driver %s, jobs %v", err, b.fn.Driver, b.Jobs())
	}
	rec, err := b.Attachments.LoadRestore(bound)
	if err != nil || rec.Driver != "ena" || rec.Device.Link == nil || !slices.Equal(b.down, []int{7}) {
		t.Errorf("record %+v, error %v, links down %v", rec, err, b.down)
	}
	b.fn.Driver = "vfio-pci"
	b.step("ena")
	if err := b.end(); err != nil {
		t.Error(err)
	}
	if rec, err := b.Attachments.LoadRestore(bound); err != nil || rec.Driver != "" {
		t.Errorf("record %+v after the return to the kernel, error %v", rec, err)
	}
}

func TestBindNotBegun(t *testing.T) {
	b := newBench(t)
	b.obstacle = &Obstacle{Reason: "NoIOMMU", Message: "m"}
	if reasons, _ := b.step("vfio-pci"); !slices.Equal(reasons, []nodestate.Reason{"NoIOMMU"}) || len(b.Jobs()) > 0 {
		t.Errorf("reasons %v, jobs %v", reasons, b.Jobs())
	}
	b.obstacle, b.kept = nil, []problem.Finding{{Problem: nodestate.Problem{Reason: "OnlyDefaultRoute"}}}
	if reasons, _ := b.step("vfio-pci"); !slices.Equal(reasons, []nodestate.Reason{"OnlyDefaultRoute"}) || len(b.down) > 0 || len(b.Jobs()) > 0 {
		t.Errorf("reasons %v, links down %v, jobs %v", reasons, b.down, b.Jobs())
	}
}

func TestBindBacksOff(t *testing.T) {
	b := newBench(t)
	b.bindErr = errors.New("refused")
	want := []nodestate.Reason{"DriverNotBound"}
	for _, seconds := range []int{2, 4, 8, 16, 32, 60, 60} {
		wait := time.Duration(seconds) * time.Second
		b.step("vfio-pci")
		if err := b.end(); !errors.Is(err, b.bindErr) {
			t.Errorf("error %v", err)
		}
		if reasons, after := b.step("vfio-pci"); !slices.Equal(reasons, want) || after != wait || len(b.Jobs()) > 0 {
			t.Fatalf("reasons %v, again after %v with %d jobs; want %v after %v", reasons, after, len(b.Jobs()), want, wait)
		}
		b.now = b.now.Add(wait)
	}
	if reasons, _ := b.step(""); len(reasons) > 0 {
		t.Errorf("reasons %v though nothing is wanted", reasons)
	}
}

func TestLockKept(t *testing.T) {
	b := newBench(t)
	lock, err := b.Locks.Lock(t.Context(), bound)
	must(t, err)
	defer lock.Close()
	if reasons, _ := b.step("vfio-pci"); len(reasons) > 0 {
		t.Errorf("reasons %v at once", reasons)
	}
	b.now = b.now.Add(StuckAfter)
	if reasons, _ := b.step("vfio-pci"); !slices.Equal(reasons, []nodestate.Reason{"DriverStuck"}) || len(b.Jobs()) > 0 {
		t.Errorf("reasons %v, jobs %v", reasons, b.Jobs())
	}
}

// A change that has ended, or ends in time, does not outlast the daemon although no Sync has taken its end.
func TestUnended(t *testing.T) {
	hangs, ended, ends := &job{done: make(chan struct{})}, &job{done: make(chan struct{})}, &job{done: make(chan struct{})}
	close(ended.done)
	b := NewBinder(BinderOptions{})
	b.jobs = map[device.PCIAddress]*job{"0000:00:01.0": ends, "0000:00:02.0": hangs, "0000:00:03.0": ended}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		close(ends.done)
		cancel()
	}()
	if got := b.Unended(ctx); !slices.Equal(got, []device.PCIAddress{"0000:00:02.0"}) {
		t.Errorf("outlast the daemon: %v", got)
	}
	if got := NewBinder(BinderOptions{}).Unended(ctx); len(got) != 0 {
		t.Errorf("without any: %v", got)
	}
}
