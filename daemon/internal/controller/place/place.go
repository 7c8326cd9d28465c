// Package place reads an EC2 instance, as far as an ENI needs a place there.
package place

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// EC2 is the region's EC2.
type EC2 interface {
	ByInstance(ctx context.Context, id string) ([]vpc.Interface, error)
	Instance(ctx context.Context, id string) (vpc.Instance, error)
	InstanceType(ctx context.Context, name string) (vpc.InstanceType, error)
}

// Place is an instance, as far as an ENI needs a place there.
type Place struct {
	Instance vpc.Instance
	Attached []vpc.Interface
	Kind     vpc.InstanceType
	Named    string // the name that Kind was asked by
}

// Read makes its calls at once, because somebody may be waiting. Without a type that EC2 knows it takes the instance's own.
func Read(ctx context.Context, ec2 EC2, id, kind string, typed bool) (p Place, err error) {
	var wg sync.WaitGroup
	var errs [3]error
	wg.Go(func() { p.Attached, errs[0] = ec2.ByInstance(ctx, id) })
	wg.Go(func() { p.Instance, errs[1] = ec2.Instance(ctx, id) })
	p.Named = kind
	if !typed && kind != "" {
		wg.Go(func() { p.Kind, errs[2] = ec2.InstanceType(ctx, kind) })
	}
	wg.Wait()
	if own := p.Instance.Type; !typed && own != "" && own != kind && (kind == "" || errs[2] != nil) {
		p.Named = own
		p.Kind, errs[2] = ec2.InstanceType(ctx, own)
	}
	if errs[2] != nil {
		errs[2] = fmt.Errorf("limits of instance type %q: %w", p.Named, errs[2])
	}
	return p, cmp.Or(errs[0], errs[1], errs[2])
}
