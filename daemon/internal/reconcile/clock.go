package reconcile

import "time"

// steady is the time by which this package waits. Nobody sets it: it is the time since
// boot, counted from 1970, and means something in this boot only. All that is kept until
// a later Sync, or in the checkpoint, to be compared with the time then, is of this clock.
// Now is for people and for comparisons with times that other programs write.
func (r *Reconciler) steady() time.Time {
	if r.Uptime == nil {
		return r.Now()
	}
	up, err := r.Uptime()
	if err != nil { // no kernel that runs this program fails here
		return r.lastSteady
	}
	r.lastSteady = time.Unix(0, 0).UTC().Add(up)
	return r.lastSteady
}
