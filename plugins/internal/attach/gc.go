package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/giveback"
)

// gc is CNI GC. It releases this network's attachments that are not in the runtime's list, or
// without a list the certainly dead ones.
func (c *call) gc(ctx context.Context) error {
	records, bad, err := c.records.List()
	if err != nil {
		return err
	}
	for _, err := range bad {
		c.log.WithError(err).Warn("leaving a record that cannot be read")
	}
	errs := []error{c.faults.paths} // there may be more records where the policy says
	for _, a := range records {
		dead := !slices.Contains(c.cfg.ValidAttachments, a.AttachmentID)
		if c.cfg.ValidAttachments == nil {
			dead = c.presence.Stale(a)
		}
		if a.Network == c.cfg.Name && c.cfg.Name != "" && dead {
			errs = append(errs, c.collect(ctx, a))
		}
	}
	errs = append(errs, c.collectLeases(ctx))
	for _, d := range c.plugins.Plugins() {
		if c.since("1.1.0") { // which introduced GC
			errs = append(errs, c.plugins.Run(ctx, "GC", d, c.plugins.Own()))
		}
	}
	return errors.Join(errs...)
}

func (c *call) collect(ctx context.Context, a nodestate.Attachment) error {
	r, err := c.lockRecord(ctx, a.AttachmentID)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, nodestate.ErrBusy):
		return nil // its DEL has removed it, or its ADD is running
	case err != nil:
		return err
	}
	defer r.Close()
	if err := c.releaser.Release(ctx, r, giveback.LockFree); err != nil {
		return fmt.Errorf("collect %s: %w", r.AttachmentID, err)
	}
	return nil
}

// collectLeases ends leases by the same rule as records.
func (c *call) collectLeases(ctx context.Context) error {
	if c.cfg.ENIIPAM == nil || c.cfg.Name == "" {
		return nil
	}
	return c.addresses.Leases.Collect(ctx, c.cfg.Name, c.cfg.ValidAttachments)
}
