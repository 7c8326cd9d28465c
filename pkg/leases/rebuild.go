package leases

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// asideSuffix ends the name of the copy of a rebuilt file. There is one at most.
const asideSuffix = ".corrupt"

// Unreadable says whether an error is about a file that cannot be used as it is: ErrCorrupt or ErrUntrusted.
func Unreadable(err error) bool {
	return errors.Is(err, nodestate.ErrCorrupt) || errors.Is(err, nodestate.ErrUntrusted)
}

// Rebuild is Lock for an ENI whose file is Unreadable. Known returns the leases that attachments are known to have, and
// is called under the lock. They and the valid leases of the old file make the new one, which replaces it in one step.
// The old file is kept beside it. A file that is readable by now is left alone.
func (d Dir) Rebuild(ctx context.Context, bootID string, eni device.ENIID, known func() ([]Lease, error)) (*Locked, error) {
	l, err := d.lock(ctx, bootID, eni)
	if err != nil {
		return nil, err
	}
	if l.Leases, err = d.Read(bootID, eni); Unreadable(err) {
		err = l.rebuild(eni, known)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Locked) rebuild(eni device.ENIID, known func() ([]Lease, error)) error {
	all, err := known()
	if err != nil {
		return err
	}
	data, err := nodestate.ReadTrusted(l.path)
	if err == nil {
		l.Leases = salvage(data, eni)
	}
	l.ENIID = eni
	for _, lease := range all {
		l.put(lease)
	}
	// A link, so that there is a file here at every moment; it may fail without harm.
	if atomicfile.Remove(l.path+asideSuffix) == nil {
		os.Link(l.path, l.path+asideSuffix) //nolint:errcheck,gosec // for people who want to read it
	}
	return l.Save()
}

// put adds a lease, or replaces the one of the same address.
func (l *Leases) put(lease Lease) {
	i, found := l.Find(lease.Address)
	if found {
		l.Leases[i] = lease
		return
	}
	l.Leases = slices.Insert(l.Leases, i, lease)
}

// salvage reads the valid leases of a corrupt file, up to the first octet that is no JSON. Another ENI's file has none.
func salvage(data []byte, eni device.ENIID) (l Leases) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return l
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return l
		}
		switch key {
		case "eniID":
			var of device.ENIID
			if dec.Decode(&of) == nil && of != eni {
				return l
			}
		case "asked":
			err = each(dec, func(family string) { l.Asked = append(l.Asked, family) })
		case "retiring":
			err = each(dec, func(p netip.Prefix) {
				if p.IsValid() && p == p.Masked() {
					l.Retiring = append(l.Retiring, p)
				}
			})
		case "leases":
			err = each(dec, func(lease Lease) {
				if lease.validate() == nil {
					l.put(lease)
				}
			})
		default:
			err = dec.Decode(new(json.RawMessage))
		}
		if err != nil {
			return l
		}
	}
	return l
}

// each calls f with the elements of a list that have the form of T. Error: the first octet that is no JSON.
func each[T any](dec *json.Decoder, f func(T)) error {
	if open, err := dec.Token(); err != nil || open != json.Delim('[') {
		return errors.Join(err, nodestate.ErrCorrupt)
	}
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		var v T
		if json.Unmarshal(raw, &v) == nil {
			f(v)
		}
	}
	_, err := dec.Token()
	return err
}
