package awsnode

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

const macsKey = "network/interfaces/macs/"

var errSlow = fmt.Errorf("metadata service not done within %v: %w", listTimeout, context.DeadlineExceeded)

// PrimaryMAC asks IMDS for the MAC of the ENI that the instance booted with.
func (c *Client) PrimaryMAC(ctx context.Context) (device.MAC, error) {
	const key = "mac"
	value, err := c.get(ctx, key)
	if err != nil {
		return "", err
	}
	return parse(key, value, device.ParseMAC)
}

// macs lists the MACs, and the other lines.
func (c *Client) macs(ctx context.Context) (macs []device.MAC, odd []*vpc.ValueError, err error) {
	value, err := c.get(ctx, macsKey)
	if err != nil {
		return nil, nil, err
	}
	for _, line := range strings.Fields(value) {
		mac, err := device.ParseMAC(strings.TrimSuffix(line, "/"))
		if err != nil {
			odd = append(odd, &vpc.ValueError{Key: macsKey, Value: strings.TrimSuffix(line, "/"), Err: err})
			continue
		}
		macs = append(macs, mac)
	}
	if len(macs) == 0 {
		return nil, nil, &vpc.ValueError{Key: macsKey, Value: value, Err: errors.New("no interface is listed, not even the primary one")}
	}
	slices.Sort(macs)
	return slices.Compact(macs), odd, nil
}

// readAll reads several ENIs at once; nil for an incomplete or unread one. The first failure ends the others.
func (c *Client) readAll(ctx context.Context, macs []device.MAC) ([]*vpc.ENI, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	found := make([]*vpc.ENI, len(macs))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(concurrency, len(macs)) {
		wg.Go(func() {
			for i := range next {
				e, err := readENI(macs[i], func(key string) (string, error) { return c.get(ctx, key) })
				if err != nil && !errors.Is(err, errNoKey) {
					cancel(err) // only the first counts
				}
				found[i] = e
			}
		})
	}
	for i := range macs {
		next <- i
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return found, context.Cause(ctx)
	}
	return found, nil
}

// readENI reads an ENI key by key. The error wraps errNoKey if the ENI is incomplete. Unreadable is a senseless value.
func readENI(mac device.MAC, get func(key string) (string, error)) (*vpc.ENI, error) {
	r := reader{get: get, base: macsKey + mac.String() + "/"}
	r.list("interface-id")
	e := &vpc.ENI{
		MAC:         mac,
		ID:          value(&r, "interface-id", device.ParseENIID),
		DeviceIndex: value(&r, "device-number", parseIndex),
		SubnetID:    value(&r, "subnet-id", device.ParseSubnetID),
	}
	// The VPC CNI reads the first, and gets 404 if there is one card (pkg/awsutils/imds.go); AWS' metadata mock has the second.
	for _, key := range []string{"network-card", "network-card-index"} {
		if card := values(&r, key, parseIndex); len(card) > 0 {
			e.NetworkCard = card[0]
			break
		}
	}
	subnets := append(values(&r, "subnet-ipv4-cidr-block", parsePrefix), values(&r, "subnet-ipv6-cidr-blocks", parsePrefix)...)
	if len(subnets) > 0 {
		e.SubnetCIDR = subnets[0]
	}
	e.VPCCIDRs = values(&r, "vpc-ipv4-cidr-blocks", parsePrefix)
	r.pool(e, subnets)
	// An ENI that vanished half-way would look like one without addresses.
	if again := value(&r, "interface-id", device.ParseENIID); r.err == nil && again != e.ID {
		return nil, fmt.Errorf("metadata key %sinterface-id: changed from %s to %s: %w", r.base, e.ID, again, errNoKey)
	}
	var bad *vpc.ValueError
	if errors.As(r.err, &bad) {
		return &vpc.ENI{ID: e.ID, MAC: mac, DeviceIndex: -1, NetworkCard: -1, Unreadable: bad}, nil
	}
	if r.err != nil {
		return nil, r.err
	}
	return e, nil
}

func (r *reader) pool(e *vpc.ENI, subnets []netip.Prefix) {
	e.Addresses, e.Prefixes = nil, nil
	for _, key := range []string{"local-ipv4s", "ipv6s"} {
		e.Addresses = append(e.Addresses, r.addresses(key, subnets)...)
	}
	for _, key := range []string{"ipv4-prefix", "ipv6-prefix"} {
		e.Prefixes = append(e.Prefixes, values(r, key, parsePrefix)...)
	}
}

// reader reads an ENI's keys until the first failure, which it keeps.
type reader struct {
	get  func(key string) (string, error)
	base string // "network/interfaces/macs/02:00:00:00:00:07/"
	// keys are those that IMDS lists; nil if unknown.
	keys []string
	err  error
}

// list reads which keys exist, so that no others are asked for. A list must have the keys that every ENI has.
func (r *reader) list(always string) {
	if keys := r.lines(""); slices.Contains(keys, always) {
		r.keys = keys
	}
}

func (r *reader) lines(key string) []string {
	if r.err != nil || r.keys != nil && !slices.Contains(r.keys, key) {
		return nil
	}
	text, err := r.get(r.base + key)
	if err != nil && !errors.Is(err, errNoKey) {
		r.err = err
	}
	return strings.Fields(text)
}

func values[T any](r *reader, key string, from func(string) (T, error)) []T {
	var out []T
	for _, line := range r.lines(key) {
		v, err := parse(r.base+key, line, from)
		if err != nil {
			r.err = err
			return nil
		}
		out = append(out, v)
	}
	return out
}

func value[T any](r *reader, key string, from func(string) (T, error)) T {
	var zero T
	all := values(r, key, from)
	switch {
	case r.err != nil:
		return zero
	case len(all) == 0:
		r.err = fmt.Errorf("metadata key %s%s: %w", r.base, key, errNoKey)
		return zero
	default:
		return all[0]
	}
}

// addresses gives a key's addresses the length of their subnet.
func (r *reader) addresses(key string, subnets []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range values(r, key, netip.ParseAddr) {
		i := slices.IndexFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) })
		if i < 0 {
			// The ranges may reach IMDS later than the addresses.
			r.err = fmt.Errorf("metadata key %s%s: address %s lies in none of the subnet's ranges %v: %w", r.base, key, a, subnets, errNoKey)
			return nil
		}
		out = append(out, netip.PrefixFrom(a, subnets[i].Bits()))
	}
	return out
}

func parse[T any](key, text string, from func(string) (T, error)) (T, error) {
	v, err := from(text)
	if err != nil {
		return v, &vpc.ValueError{Key: key, Value: text, Err: err}
	}
	return v, nil
}

// parsePrefix refuses host bits.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("has host bits; the range is %s", p.Masked())
	}
	return p, nil
}

// maxIndex is far above any instance type's number of ENIs or cards.
const maxIndex = 1023

func parseIndex(s string) (int, error) {
	i, err := strconv.Atoi(s)
	if err != nil || i < 0 || i > maxIndex {
		return 0, fmt.Errorf("want a number from 0 to %d", maxIndex)
	}
	return i, nil
}
