package awsnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

const (
	// An ENI's changeable keys are read again after refreshEvery, if the budget allows, and the others after wholeEvery.
	refreshEvery = 10 * time.Second
	wholeEvery   = 10 * time.Minute
	// againFirst and againMost bound the waits before an incomplete ENI is read again, each an eighth of the time since IMDS lists it.
	againFirst = 250 * time.Millisecond
	againMost  = time.Minute
)

type interfaces struct {
	asked   bool
	primary device.MAC // "" before it was read: it never changes
	listed  []device.MAC
	odd     []*vpc.ValueError // lines of the list that are no MAC
	entries map[device.MAC]*entry
}

type entry struct {
	// eni is nil until the ENI was complete.
	eni *vpc.ENI
	// since is when IMDS began to list it, tried the last reading, whole the last complete one; zero: all of it is due.
	since, tried, whole time.Time
}

// errTooOften: IMDS has not yet listed the ENIs, and was asked too often lately.
var errTooOften = errors.New("the metadata service has failed too often for another question now")

// ENIs lists the instance's ENIs by MAC. An incomplete ENI has only its MAC; one with a senseless value is Unreadable. After an error nothing
// is known; it is a *vpc.ValueError if IMDS's answer makes no sense. An instance has a primary ENI, so the list is never empty.
//
// A new ENI is read at once. Others are read again as the budget allows: incomplete ones soon, changeable keys every 10 s. So a call
// sees a new address some 10 s later, or up to two minutes later with many ENIs.
func (c *Client) ENIs(ctx context.Context) ([]vpc.ENI, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listTimeout, errSlow)
	defer cancel()
	select {
	case c.looking <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("list ENIs: %w", context.Cause(ctx))
	}
	defer func() { <-c.looking }()
	if err := c.look(ctx); err != nil {
		return nil, fmt.Errorf("list ENIs: %w", err)
	}
	return c.known.answer(), nil
}

func (c *Client) look(ctx context.Context) error {
	if err := c.list(ctx); err != nil {
		return err
	}
	var fresh, old []device.MAC
	for _, mac := range c.known.listed {
		if c.known.entries[mac].tried.IsZero() {
			fresh = append(fresh, mac)
		} else {
			old = append(old, mac)
		}
	}
	if err := c.readFresh(ctx, fresh); err != nil {
		return err
	}
	slices.SortStableFunc(old, func(a, b device.MAC) int { return c.known.entries[a].tried.Compare(c.known.entries[b].tried) })
	for _, urgent := range []bool{true, false} {
		for _, mac := range old {
			e := c.known.entries[mac]
			if urgent != e.lacking(mac == c.known.primary) {
				continue
			}
			if err := c.readAgain(again(ctx), mac, e, urgent); err != nil {
				return err
			}
		}
	}
	return nil
}

// list reads which ENIs exist. Without budget the last list stands.
func (c *Client) list(ctx context.Context) error {
	k := &c.known
	if k.asked {
		ctx = again(ctx)
		switch {
		case c.budget.left(ctx) > k.reserved(c.budget.now()):
		case k.listed == nil:
			return errTooOften
		default:
			return nil
		}
	}
	k.asked = true
	if k.primary == "" {
		primary, err := c.PrimaryMAC(ctx)
		if err != nil {
			return err
		}
		k.primary, k.entries = primary, map[device.MAC]*entry{}
	}
	macs, odd, err := c.macs(ctx)
	if err != nil {
		return err
	}
	k.listed, k.odd = macs, odd
	for mac := range k.entries {
		if !slices.Contains(macs, mac) {
			delete(k.entries, mac)
		}
	}
	for _, mac := range macs {
		if k.entries[mac] == nil {
			k.entries[mac] = &entry{since: c.budget.now()}
		}
	}
	return nil
}

func (c *Client) readFresh(ctx context.Context, macs []device.MAC) error {
	macs = macs[:min(len(macs), max(0, c.budget.left(ctx)/eniRequests))]
	found, err := c.readAll(ctx, macs)
	for i, mac := range macs { // after an error too, so that nothing is read twice
		c.known.entries[mac].take(found[i], mac == c.known.primary, c.budget.now())
	}
	return err
}

// take notes a complete reading; nil for an incomplete ENI.
func (e *entry) take(eni *vpc.ENI, primary bool, now time.Time) {
	e.tried = now
	if eni == nil {
		e.whole = time.Time{}
		return
	}
	eni.Primary = primary
	if !primary && eni.DeviceIndex == 0 {
		eni.DeviceIndex = -1
	}
	if eni.Unreadable == nil {
		e.whole = now
	} else if e.whole = (time.Time{}); e.eni != nil && e.eni.ID != "" {
		last := *e.eni
		last.Unreadable = eni.Unreadable
		eni = &last
	}
	e.eni = eni
}

// lacking says whether IMDS may yet tell more: all of the ENI, its index, or its first address.
func (e *entry) lacking(primary bool) bool {
	return e.whole.IsZero() || !primary && (e.eni.DeviceIndex < 0 || len(e.eni.Addresses) == 0)
}

// wait is the pause before the next reading.
func (e *entry) wait(urgent bool, now time.Time) time.Duration {
	if urgent {
		return min(max(againFirst, now.Sub(e.since)/8), againMost)
	}
	return refreshEvery
}

// readAgain reads the ENI's changeable keys, or all keys, if due and the budget allows.
func (c *Client) readAgain(ctx context.Context, mac device.MAC, e *entry, urgent bool) error {
	now, spare := c.budget.now(), spareRequests
	if urgent {
		spare = 0
	}
	if !e.due(urgent, now) || c.budget.left(ctx) < e.cost(urgent, now)+spare {
		return nil
	}
	get := func(key string) (string, error) { return c.get(ctx, key) }
	if e.all(now) {
		eni, err := readENI(mac, get)
		if err != nil && !errors.Is(err, errNoKey) {
			return err
		}
		e.take(eni, mac == c.known.primary, now)
		return nil
	}
	return e.refresh(get, mac == c.known.primary, urgent && e.lacksIndexOnly(), now)
}

func (e *entry) due(urgent bool, now time.Time) bool {
	age := now.Sub(e.tried)
	return age < 0 || age >= e.wait(urgent, now)
}

func (e *entry) all(now time.Time) bool { return e.whole.IsZero() || now.Sub(e.whole) >= wholeEvery }

// lacksIndexOnly: IMDS may yet tell only the index.
func (e *entry) lacksIndexOnly() bool { return e.eni.DeviceIndex < 0 && len(e.eni.Addresses) > 0 }

func (e *entry) cost(urgent bool, now time.Time) int {
	switch {
	case e.all(now):
		return eniRequests
	case urgent && e.lacksIndexOnly():
		return 1
	}
	return refreshRequests
}

// reserved counts the requests for a due ENI that somebody waits for. The list leaves them; else it would take each as soon as it is free.
func (k *interfaces) reserved(now time.Time) (most int) {
	for mac, e := range k.entries {
		if !e.tried.IsZero() && e.lacking(mac == k.primary) && e.due(true, now) {
			most = max(most, e.cost(true, now))
		}
	}
	return most
}

// refresh reads an ENI's changeable keys, or its index only. An address outside the known ranges makes the next reading complete.
func (e *entry) refresh(get func(key string) (string, error), primary, indexOnly bool, now time.Time) error {
	next := *e.eni
	r := reader{get: get, base: macsKey + next.MAC.String() + "/"}
	if !indexOnly {
		r.list("device-number")
	}
	next.DeviceIndex = value(&r, "device-number", parseIndex)
	if !indexOnly {
		r.pool(&next, ranges(e.eni))
	}
	var bad *vpc.ValueError
	switch {
	case errors.As(r.err, &bad):
		e.take(&vpc.ENI{Unreadable: bad}, primary, now)
	case errors.Is(r.err, errNoKey): // it goes, or has new ranges
		e.take(nil, primary, now)
	case r.err != nil:
		return r.err
	default:
		whole := e.whole
		e.take(&next, primary, now)
		e.whole = whole
	}
	return nil
}

func ranges(e *vpc.ENI) (all []netip.Prefix) {
	if e.SubnetCIDR.IsValid() {
		all = append(all, e.SubnetCIDR)
	}
	for _, a := range e.Addresses {
		all = append(all, a.Masked())
	}
	return all
}

func (k *interfaces) answer() []vpc.ENI {
	var out []vpc.ENI
	for _, bad := range k.odd {
		out = append(out, vpc.ENI{DeviceIndex: -1, NetworkCard: -1, Unreadable: bad})
	}
	for _, mac := range k.listed {
		e := vpc.ENI{MAC: mac, DeviceIndex: -1, NetworkCard: -1, Primary: mac == k.primary}
		if read := k.entries[mac].eni; read != nil {
			e = *read
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b vpc.ENI) int { return cmp.Compare(a.MAC, b.MAC) })
	return out
}
