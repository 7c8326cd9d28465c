package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// keep has the kubelet listen to the resource until ctx ends, or until the last connection of a lingering resource does.
func (r *resource) keep(ctx context.Context) {
	k := keeper{resource: r, failures: backoff.Backoff{First: registerFirst, Cap: registerLast}}
	defer k.close()
	for ctx.Err() == nil {
		leave, ended := r.leave(r.plugin.Now())
		if ended {
			r.plugin.forget(r)
			return
		}
		wait, done := k.step(ctx)
		if done {
			r.plugin.forget(r)
			return
		}
		if leave > 0 {
			wait = min(wait, leave)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.kicked:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// keeper is the part of a resource that only its own goroutine uses.
type keeper struct {
	*resource
	stop     func()          // stop ends the listening; nil without one
	kubelet  string          // the kubelet for which the resource listens
	was      *stream         // the newest connection at the last step
	dropped  bool            // a connection has ended since the last registration
	accepted time.Time       // when the kubelet accepted a registration that has no connection yet; zero for none
	failures backoff.Backoff // since the last calm connection
	retry    time.Time       // no registration before
	checks   []time.Time     // when to compare the kubelet's list with ours
	stale    bool            // the kubelet's list was seen to differ, so register once more
	notTaken int             // how often it differed
	tries    int             // how often the kubelet was asked to detach the resource since it was registered
	logged   logged
}

// logged is the state that was logged last.
type logged int

const (
	nothing logged = iota
	serves
	fails
)

// idle is the wait while nothing but an event matters.
const idle = time.Hour

func (k *keeper) close() {
	if k.stop != nil {
		k.stop()
		k.stop = nil
	}
}

// step does the next thing that has to be done. It returns the time after which to step again, and whether the resource
// has ended.
func (k *keeper) step(ctx context.Context) (wait time.Duration, done bool) {
	now := k.plugin.Now()
	kubelet, detach := k.plugin.situation()
	k.mu.Lock()
	newest, open, lingering, ending := k.newest, len(k.streams), k.lingering, k.ending
	detach = detach && !ending
	ending = ending && (!k.detached || newest == nil) // a kubelet notices no end of a detached resource
	k.mu.Unlock()
	k.noteEnd(now, newest)
	switch {
	case lingering && open == 0:
		return 0, true
	case lingering:
		return k.lingers(ctx, now), false
	case ending:
		return idle, false
	case kubelet == "":
		k.failed(errNoKubelet)
		return idle, false
	case kubelet != k.kubelet:
		k.close()
		*k = keeper{resource: k.resource, failures: k.failures, kubelet: kubelet, was: newest, logged: k.logged}
		k.failures.Reset()
	case newest != nil && !k.stale:
		return k.served(ctx, now, detach), false
	case now.Before(k.retry):
		return k.retry.Sub(now), false
	case newest == nil && !k.accepted.IsZero() && !k.dropped:
		if left := k.accepted.Add(streamTime).Sub(now); left > 0 {
			return left, false
		}
		k.accepted = time.Time{}
		return k.failed(errNoStream), false
	}
	if err := k.register(ctx); errors.Is(err, errOtherKubelet) {
		return droppedPoll, false
	} else if err != nil {
		return k.failed(err), false
	}
	return streamTime, false
}

// lingerLooks are the times after a change of the list, or the begin of lingering, at which the kubelet's list is compared with ours.
func lingerLooks() []time.Duration {
	return []time.Duration{5 * time.Second, 30 * time.Second, 5 * time.Minute}
}

// lingers sends the list again if the kubelet lists a part of it only, or a device that nobody offers as this resource: it may have
// read an older list of ours after the other plugin's, or, from v1.37 on, fall back to ours with the devices of that plugin when that
// ends. It returns the wait.
func (k *keeper) lingers(ctx context.Context, now time.Time) time.Duration {
	k.mu.Lock()
	replan, others := k.replan, k.others
	k.replan = false
	k.mu.Unlock()
	if replan {
		k.checks = nil
		for _, after := range lingerLooks() {
			k.checks = append(k.checks, now.Add(after))
		}
	}
	if len(k.checks) == 0 || k.plugin.Allocations == nil {
		return idle
	}
	if wait := k.checks[0].Sub(now); wait > 0 {
		return wait
	}
	k.checks = k.checks[1:]
	differs, current := k.compare(ctx)
	if current && differs != nil && differs.wrong(others) {
		k.mu.Lock()
		k.changed()
		k.mu.Unlock()
	}
	return 0
}

// noteEnd notes that the newest connection has ended. One that has lasted makes the failures before it void.
func (k *keeper) noteEnd(now time.Time, newest *stream) {
	if k.was != nil && newest != k.was {
		k.dropped = true
		if now.Sub(k.was.since) >= calmTime {
			k.failures.Reset()
			k.retry = time.Time{}
		}
	}
	k.was = newest
}

var (
	errNoKubelet = errors.New("there is no kubelet.sock; start the kubelet, or correct --kubelet-dir")
	// errOtherKubelet: it was started since the last look, and has removed our socket.
	errOtherKubelet = errors.New("another kubelet has started")
	errNoStream     = fmt.Errorf("the kubelet has accepted it, and has not connected within %v", streamTime)
)

// failed notes and logs a fault, and returns the wait before the next try.
func (k *keeper) failed(err error) time.Duration {
	wait := k.failures.Failed()
	k.retry = k.plugin.Now().Add(wait)
	k.setFault(err)
	if k.logged != fails {
		k.logged = fails
		k.plugin.Log.WithError(err).WithField("resource", k.name).Warn("the kubelet does not have a resource of the daemon, trying again")
	}
	return wait
}

func (k *keeper) setFault(err error) {
	k.mu.Lock()
	same := k.fault == nil && err == nil || k.fault != nil && err != nil && k.fault.Error() == err.Error()
	k.fault = err
	k.mu.Unlock()
	if !same {
		k.plugin.Changed()
	}
}

// served notes that the kubelet listens, compares its list with ours when that is due, and returns the wait.
func (k *keeper) served(ctx context.Context, now time.Time, detach bool) time.Duration {
	k.accepted = time.Time{}
	if wait := k.attach(ctx, detach); wait > 0 || k.stale {
		return wait
	}
	if k.notTaken == 0 {
		k.setFault(nil)
		if k.logged != serves {
			k.logged = serves
			k.plugin.Log.WithField("resource", k.name).Info("the kubelet has the resource from the daemon")
		}
	}
	if k.droppedUnseen(ctx) {
		k.stale = true
		return 0
	}
	if len(k.checks) == 0 {
		return idle
	}
	if wait := k.checks[0].Sub(now); wait > 0 {
		return wait
	}
	k.checks = k.checks[1:]
	k.check(ctx)
	return 0
}

// detachTries is how often a kubelet is asked to detach a resource, detachApart between two. One that does not is taken as
// it is: then the resource is registered again when it is dropped.
const (
	detachTries = 3
	detachApart = 200 * time.Millisecond
)

// attach detaches the resource, or registers it once more, as the plugin wishes. It returns the wait before another try.
func (k *keeper) attach(ctx context.Context, detach bool) time.Duration {
	k.mu.Lock()
	detached := k.detached
	k.mu.Unlock()
	switch {
	case detach == detached:
		return 0
	case !detach:
		k.stale = true
		return 0
	}
	if k.tries++; k.tries < detachTries {
		bounded, cancel := context.WithTimeout(ctx, registerTime)
		defer cancel()
		if err := k.plugin.Kubelet.Forget(bounded, k.name); err != nil {
			k.plugin.Log.WithError(err).WithField("resource", k.name).Debug("the kubelet does not detach a resource, trying again")
			return detachApart
		}
	}
	k.setDetached(true)
	return 0
}

func (k *keeper) setDetached(is bool) {
	k.mu.Lock()
	was := k.detached
	k.detached = is
	k.mu.Unlock()
	if is != was {
		k.plugin.Changed()
	}
}

// droppedUnseen says, after Check was called, whether the kubelet lists nothing of the resource though it was sent healthy devices.
func (k *keeper) droppedUnseen(ctx context.Context) bool {
	k.mu.Lock()
	suspect := k.suspect && k.newest != nil && k.newest.sent == k.version && slices.ContainsFunc(k.list, offer.Device.Healthy)
	k.suspect = false
	k.mu.Unlock()
	if !suspect || k.plugin.Allocations == nil {
		return false
	}
	known, err := k.plugin.allocations(ctx)
	return err == nil && len(known.Allocatable[k.name]) == 0
}

// register listens if it must, and registers the resource.
func (k *keeper) register(ctx context.Context) (err error) {
	if k.stop == nil {
		if k.stop, err = k.plugin.Kubelet.Listen(k.name, k.resource); err != nil {
			k.stop = nil
			return err
		}
	}
	if k.dropped {
		k.awaitDropped(ctx)
	}
	k.writeInfo(k.devices()) //nolint:errcheck,gosec // it is in the state, and Allocate tries again
	bounded, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	k.setAbort(cancel)
	defer k.setAbort(nil)
	if k.plugin.Kubelet.Identity() != k.kubelet {
		return errOtherKubelet
	}
	if err := k.plugin.Kubelet.Register(bounded, k.name); err != nil {
		return err
	}
	now := k.plugin.Now()
	k.setDetached(false)
	k.accepted, k.dropped, k.stale, k.checks, k.tries = now, false, false, nil, 0
	k.retry = now.Add(k.failures.Failed()) // only a connection that lasts is a success
	for _, after := range checksAfter() {
		k.checks = append(k.checks, now.Add(after))
	}
	k.plugin.registered()
	return nil
}

// awaitDropped waits until the kubelet has dropped the resource, as it does within a fraction of a millisecond after it
// has closed a connection. An earlier question would cost another one, of the few that the kubelet admits.
func (k *keeper) awaitDropped(ctx context.Context) {
	if !slices.ContainsFunc(k.devices(), offer.Device.Healthy) { // the kubelet's list does not show it, and nobody is in a hurry
		backoff.Sleep(ctx, droppedTime)
		return
	}
	if k.plugin.Allocations == nil {
		backoff.Sleep(ctx, droppedPoll)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, droppedTime)
	defer cancel()
	for backoff.Sleep(ctx, droppedFirst); ; {
		known, err := k.plugin.allocations(ctx)
		if err == nil && len(known.Allocatable[k.name]) == 0 || !backoff.Sleep(ctx, droppedPoll) || err != nil {
			return
		}
	}
}

// check compares the kubelet's list with ours, and has the resource registered again if they differ. It also writes
// the device-info files that another plugin has removed.
func (k *keeper) check(ctx context.Context) {
	k.writeInfo(k.devices()) //nolint:errcheck,gosec // it is in the state, and Allocate tries again
	if k.plugin.Allocations == nil {
		return
	}
	differs, current := k.compare(ctx)
	switch {
	case !current:
		return
	case differs == nil:
		k.notTaken = 0
		return
	}
	k.failed(differs)
	if k.notTaken++; k.notTaken <= notTakenTries {
		k.stale = true
		return
	}
	k.checks = []time.Time{k.plugin.Now().Add(notTakenLook)}
}

// compare asks the kubelet for the resource. It returns the difference from our list, nil for none, and whether that
// list was sent, and the kubelet has answered.
func (k *keeper) compare(ctx context.Context) (differs *NotTakenError, current bool) {
	list := k.devices()
	known, err := k.plugin.allocations(ctx)
	k.mu.Lock()
	current = k.newest != nil && k.newest.sent == k.version && slices.Equal(k.list, list)
	k.mu.Unlock()
	if err != nil || !current {
		return nil, false //nolint:nilerr // a kubelet that does not answer is compared another time
	}
	var want []device.PCIAddress
	for _, d := range list {
		if d.Healthy() {
			want = append(want, d.ID)
		}
	}
	slices.Sort(want)
	if slices.Equal(want, known.Allocatable[k.name]) {
		return nil, true
	}
	return &NotTakenError{Resource: k.name, Offered: want, Listed: known.Allocatable[k.name]}, true
}
