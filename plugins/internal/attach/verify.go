package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// plugins returns the netconf's delegate and address plugin, as STATUS and GC
// call them: without a device. None of a netconf that ADD would refuse.
func (c *call) plugins() []*nodestate.Delegation {
	var out []*nodestate.Delegation
	if c.cfg.Refused != nil || c.policy.Check(c.cfg) != nil {
		return nil
	}
	if c.cfg.Delegate != nil {
		if conf, err := c.cfg.DelegateConfig("", "", 0); err == nil {
			out = append(out, &nodestate.Delegation{Type: c.cfg.Delegate.Type, Config: conf})
		}
	}
	if c.cfg.IPAM != nil {
		if conf, err := c.cfg.IPAMConfig(); err == nil {
			out = append(out, &nodestate.Delegation{Type: c.cfg.IPAM.Type, Config: conf})
		}
	}
	return out
}

// gc is CNI GC: the attachments of this network that the runtime no longer
// knows get the full release. Without the runtime's list only those whose netns
// is certainly gone do.
func (c *call) gc() error {
	records, bad, err := c.dir.List()
	if err != nil {
		return err
	}
	for _, err := range bad {
		c.log.WithError(err).Warn("leaving a record that cannot be read")
	}
	errs := []error{c.lost} // there may be more where the policy says
	for _, a := range records {
		if a.Network == c.cfg.Name && c.cfg.Name != "" && c.collectable(a) {
			errs = append(errs, c.collect(a))
		}
	}
	errs = append(errs, c.collectLeases())
	for _, d := range c.plugins() {
		if c.since("1.1.0") { // which brought GC
			errs = append(errs, c.pluginRun("GC", d, c.own()))
		}
	}
	return errors.Join(errs...)
}

func (c *call) collectable(a nodestate.Attachment) bool {
	if c.cfg.ValidAttachments == nil {
		return c.stale(a)
	}
	return !slices.Contains(c.cfg.ValidAttachments, a.AttachmentID)
}

func (c *call) collect(a nodestate.Attachment) error {
	r, err := c.lockRecord(a.AttachmentID)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, nodestate.ErrBusy):
		return nil // its DEL has come, or its ADD is running
	case err != nil:
		return err
	}
	defer r.Close()
	if err := c.release(r, claimLockFree); err != nil {
		return fmt.Errorf("collect %s: %w", r.AttachmentID, err)
	}
	return nil
}
