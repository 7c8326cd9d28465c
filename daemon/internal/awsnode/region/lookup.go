package region

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Interface returns an ENI by its id. Without such an ENI the error has the code InvalidNetworkInterfaceID.NotFound.
func (c *Client) Interface(ctx context.Context, id string) (vpc.Interface, error) {
	if err := isENI(id); err != nil {
		return vpc.Interface{}, malformed("InvalidNetworkInterfaceID.Malformed", id, err)
	}
	return one(ctx, c, c.byID, id, noInterface)
}

// BySlot returns the ENIs with a slot's tag; none is no error.
func (c *Client) BySlot(ctx context.Context, slot string) ([]vpc.Interface, error) {
	if slot == "" {
		return nil, malformed("InvalidParameterValue", slot, fmt.Errorf("a slot has an id"))
	}
	return c.bySlot.Ask(ctx, c.cfg.Now, slot)
}

// ByInstance returns the ENIs that are attached to an instance, or are on their way there or away; none is no error.
func (c *Client) ByInstance(ctx context.Context, id string) ([]vpc.Interface, error) {
	if err := matches(instancePattern)(id); err != nil {
		return nil, malformed("InvalidInstanceID.Malformed", id, err)
	}
	return c.byInstance.Ask(ctx, c.cfg.Now, id)
}

// Instance returns an instance by its id. Without such an instance the error has the code InvalidInstanceID.NotFound.
func (c *Client) Instance(ctx context.Context, id string) (vpc.Instance, error) {
	if err := matches(instancePattern)(id); err != nil {
		return vpc.Instance{}, malformed("InvalidInstanceID.Malformed", id, err)
	}
	return one(ctx, c, c.instances, id, noInstance)
}

var typePattern = regexp.MustCompile(`^[a-z0-9-]+\.[a-z0-9-]+$`)

// InstanceType returns a type's limits. They never change, so EC2 is asked once. An unknown type's error has the code InvalidInstanceType.
func (c *Client) InstanceType(ctx context.Context, name string) (vpc.InstanceType, error) {
	if err := matches(typePattern)(name); err != nil {
		return vpc.InstanceType{}, malformed(noType, name, err)
	}
	known, _ := c.knownTypes.Load(name)
	if t, ok := known.(vpc.InstanceType); ok {
		return t, nil
	}
	t, err := one(ctx, c, c.types, name, noType)
	if err == nil {
		c.knownTypes.Store(name, t)
	}
	return t, err
}

// Subnets returns the subnets with one of the ids or names, sorted by id. A name may have several, in all VPCs; it is compared exactly. Absent ones
// are left out.
func (c *Client) Subnets(ctx context.Context, ids, names []string) ([]vpc.Subnet, error) {
	return union(ctx, c, c.subnetByID, ids, c.subnetByName, names, func(s vpc.Subnet) string { return s.ID })
}

// SecurityGroups returns the groups with one of the ids or names, as Subnets does.
func (c *Client) SecurityGroups(ctx context.Context, ids, names []string) ([]vpc.SecurityGroup, error) {
	return union(ctx, c, c.groupByID, ids, c.groupByName, names, func(g vpc.SecurityGroup) string { return g.ID })
}

func malformed(code, value string, err error) error {
	return &vpc.EC2Error{Kind: vpc.EC2Refused, Code: code, Service: "EC2", Err: fmt.Errorf("not asked for %q: %w", value, err)}
}

func one[V any](ctx context.Context, c *Client, b *batcher[[]V], id, missing string) (V, error) {
	all, err := b.Ask(ctx, c.cfg.Now, id)
	var none V
	switch {
	case err != nil:
		return none, err
	case len(all) == 0:
		return none, &vpc.EC2Error{Kind: vpc.EC2Refused, Code: missing, Service: "EC2", Err: fmt.Errorf("EC2 does not list %s", id)}
	}
	return all[0], nil
}

func union[V any](ctx context.Context, c *Client, byID *batcher[[]V], ids []string, byName *batcher[[]V], names []string, id func(V) string) ([]V, error) {
	type question struct {
		of    *batcher[[]V]
		value string
	}
	var asked []question
	for _, v := range ids {
		asked = append(asked, question{byID, v})
	}
	for _, v := range names {
		asked = append(asked, question{byName, v})
	}
	answers := make([]answer[[]V], len(asked))
	var wg sync.WaitGroup
	for i, q := range asked {
		wg.Go(func() { answers[i].value, answers[i].err = q.of.Ask(ctx, c.cfg.Now, q.value) })
	}
	wg.Wait()
	var all []V
	for _, a := range answers {
		if a.err != nil {
			return nil, a.err
		}
		all = append(all, a.value...)
	}
	slices.SortFunc(all, func(a, b V) int { return cmp.Compare(id(a), id(b)) })
	return slices.CompactFunc(all, func(a, b V) bool { return id(a) == id(b) }), nil
}
