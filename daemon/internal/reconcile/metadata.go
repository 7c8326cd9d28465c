package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// How IMDS is asked.
const (
	// metadataWait is how long a Sync waits for the answer. A later answer is for the next Sync: a slow IMDS must
	// delay nothing else. Foreign routes must be gone from idle links within 200 ms, also if they come meanwhile.
	metadataWait    = 100 * time.Millisecond
	metadataTimeout = 20 * time.Second // metadataTimeout bounds the time of an answer
	metadataFresh   = 10 * time.Second // how long an answer stands while no device waits for news
	// metadataApart is the least time between two questions while a device waits. Each wait is an eighth of the time
	// since the device began to wait, up to metadataFresh: an answer that is late by seconds is seen soon, and one
	// that never comes is asked for seldom. awsnode.Client bounds the requests besides.
	metadataApart   = retryFirst
	metadataBackOff = 30 * time.Second // the longest wait after failures; it doubles from a second
)

type metadataCache struct {
	answer   inventory.Fact[[]vpc.ENI]
	err      error
	asked    time.Time
	failures backoff.Backoff
	pending  chan metadataAnswer // pending gets the answer to the present question; nil without one
	// wants lists the devices that wait for news of the metadata, "" for none, and machine the PCI
	// addresses; since is when either last changed.
	wants, machine string
	since          time.Time
}

type metadataAnswer struct {
	enis []vpc.ENI
	err  error
}

// get returns the latest answer, after a new question if that may help.
func (m *metadataCache) get(ctx context.Context, from Metadata, now time.Time) (inventory.Fact[[]vpc.ENI], error) {
	if m.pending == nil && m.stale(now) {
		m.asked = now
		m.pending = ask(ctx, from)
	}
	if m.pending != nil {
		ctx, cancel := context.WithTimeout(ctx, metadataWait)
		defer cancel()
		select {
		case a := <-m.pending:
			m.take(a)
		case <-ctx.Done():
		}
	}
	return m.answer, m.err
}

// ask asks in the background. The channel is buffered, so the answer may be ignored.
func ask(ctx context.Context, from Metadata) chan metadataAnswer {
	answer := make(chan metadataAnswer, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
		defer cancel()
		enis, err := from.ENIs(ctx)
		answer <- metadataAnswer{enis, err}
	}()
	return answer
}

func (m *metadataCache) take(a metadataAnswer) {
	m.pending, m.err = nil, a.err
	if a.err != nil {
		m.failures.First, m.failures.Cap = time.Second, metadataBackOff
		m.failures.Failed()
		m.answer = inventory.Fact[[]vpc.ENI]{}
		return
	}
	m.failures.Reset()
	m.answer = inventory.Known(a.enis)
}

// stale says whether to ask again. A clock that was set back makes the answer stale.
func (m *metadataCache) stale(now time.Time) bool {
	age := now.Sub(m.asked)
	return age < 0 || !m.answer.Known && m.err == nil || age >= m.wait(now)
}

func (m *metadataCache) wait(now time.Time) time.Duration {
	switch {
	case m.err != nil:
		return m.failures.Wait()
	case m.wants == "":
		return metadataFresh
	}
	return min(max(now.Sub(m.since)/8, metadataApart), metadataFresh)
}

// follow notes the devices that wait for the metadata, and returns after how long to ask again; 0 for the next event.
func (m *metadataCache) follow(devices []nodestate.Device, now time.Time) time.Duration {
	wants := ""
	for i := range devices {
		if d := &devices[i]; mendable(d) {
			wants += fmt.Sprintln(d.NodeENI, d.ENIID, d.MAC, d.SubnetID, d.DeviceIndex)
		}
	}
	if m.wants != wants || m.since.After(now) {
		m.wants, m.since = wants, now
	}
	if wait := m.wait(now); wants != "" && wait < metadataFresh {
		return wait
	}
	return 0
}

// look notes the PCI functions while a device waits: a new function may be that device.
func (m *metadataCache) look(pci PCI, now time.Time) {
	if m.wants == "" {
		return
	}
	addrs, err := pci.PCIAddresses()
	if machine := fmt.Sprint(addrs); err == nil && m.machine != machine {
		m.machine, m.since = machine, now
	}
}

// mendable says whether the metadata may still complete a device: they are late by some seconds.
// They cannot help a link that is missing, down or somebody else's.
func mendable(d *nodestate.Device) bool {
	switch d.Phase {
	case nodestate.PhaseDraining:
		return false
	case nodestate.PhasePending:
		if d.ENIID == "" || d.MAC == "" || d.DeviceIndex < 1 {
			return true
		}
	case nodestate.PhaseReady:
	}
	return len(d.Addresses)+len(d.Prefixes) == 0
}

// identify names ENIs for which the metadata have only the MAC, by the rows before: an ENI keeps its MAC for life.
func identify(enis []vpc.ENI, before []nodestate.CheckpointDevice) (all []vpc.ENI) {
	for _, e := range enis {
		for i := range before {
			if e.ID == "" && e.MAC != "" && before[i].MAC == e.MAC {
				e.ID = before[i].ENIID
			}
		}
		all = append(all, e)
	}
	return all
}

// read asks the metadata, and lets EC2 correct them if addresses is not nil.
func (m *metadataCache) read(ctx context.Context, from Metadata, pci PCI, addresses Addresses, f *inventory.Sources) (found []problem.Finding) {
	m.look(pci, f.Now)
	answer, err := m.get(ctx, from, f.Now)
	f.ENIs = answer
	var bad *vpc.ValueError
	switch {
	case errors.As(err, &bad):
		found = append(found, problem.New(reason.MetadataUnreadable,
			senseless(bad)+", so new ENIs are not found; check AWS_EC2_METADATA_SERVICE_ENDPOINT, and whether a proxy answers for the metadata service", err))
	case err != nil:
		found = append(found, problem.New(reason.MetadataUnreadable,
			"the instance metadata (IMDSv2) cannot be read, so new ENIs are not found; check that it is switched on, and its hop limit", err))
	}
	if !f.ENIs.Known {
		return found
	}
	f.ENIs.Value = identify(f.ENIs.Value, f.Checkpoint.Devices)
	for _, e := range f.ENIs.Value {
		if e.Unreadable != nil {
			found = append(found, problem.On(cmp.Or(e.ID.String(), e.MAC.String()), reason.MetadataSenseless,
				"%s; what was known of this ENI before still holds", senseless(e.Unreadable)))
		}
	}
	if addresses != nil {
		f.ENIs.Value = addresses.Correct(f.ENIs.Value)
	}
	return found
}

// longestValue bounds the part of a value in a Problem.
const longestValue = 80

func senseless(e *vpc.ValueError) string {
	value := e.Value
	if len(value) > longestValue {
		value = value[:longestValue] + "…"
	}
	return fmt.Sprintf("the instance metadata has the senseless value %q for %s", value, e.Key)
}
