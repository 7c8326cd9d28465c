package reconcile

import "time"

// When the device plugin is restarted after its config has changed.
const (
	// restartQuiet is how long the config must have stayed as it is: changes
	// come in groups.
	restartQuiet = 2 * time.Second
	// restartLatest is how long restartQuiet may put a restart off.
	restartLatest = 10 * time.Second
	// restartApart is the least time between two restarts. The device plugin
	// withdraws all its resources for a moment each time.
	restartApart = 30 * time.Second
	// restartBackOff is the longest wait after failed restarts, which doubles
	// from restartApart.
	restartBackOff = 5 * time.Minute
)

// restartGate decides when a restart is due. Its zero value knows of no config.
type restartGate struct {
	// hash is that of the config which waits for a restart; "" when none does.
	hash string
	// first and last are when the config began to differ from the one that is
	// served, and when it last changed.
	first, last time.Time
	// tried is when a restart was last tried, and failures how many have failed
	// since one that did not.
	tried    time.Time
	failures int
	// parked: there is no device plugin that could be restarted for this config.
	// One that comes reads it as it is.
	parked bool
	// jitter is added to the wait for a config to settle, so that the nodes of a
	// cluster do not withdraw their resources all at once.
	jitter time.Duration
}

// observe notes the hash of the config as it now is, and that of the one which
// the device plugin is known to serve.
func (g *restartGate) observe(now time.Time, hash, confirmed string) {
	for _, t := range []*time.Time{&g.first, &g.last, &g.tried} {
		if t.After(now) {
			*t = now // the clock was set back
		}
	}
	switch {
	case hash == confirmed:
		g.hash, g.parked = "", false
	case g.hash == "" || g.parked && g.hash != hash:
		g.hash, g.first, g.last, g.parked = hash, now, now, false
	case g.hash != hash:
		g.hash, g.last = hash, now
	}
}

// due says whether to restart now, and if not, after how long to ask again; 0
// when nothing waits for a restart.
func (g *restartGate) due(now time.Time) (bool, time.Duration) {
	if g.hash == "" || g.parked {
		return false, 0
	}
	at := g.last.Add(restartQuiet + g.jitter)
	if latest := g.first.Add(restartLatest); latest.Before(at) {
		at = latest
	}
	if !g.tried.IsZero() {
		if next := g.tried.Add(g.apart()); next.After(at) {
			at = next
		}
	}
	if wait := at.Sub(now); wait > 0 {
		return false, wait
	}
	return true, 0
}

func (g *restartGate) apart() time.Duration { return backOff(g.failures) }

// backOff is how long is waited after so many failures.
func backOff(failures int) time.Duration {
	d := restartApart
	for range failures {
		if d *= 2; d >= restartBackOff {
			return restartBackOff
		}
	}
	return d
}

// succeeded notes that the config of that hash is served. The one that is on
// disk by now may be another.
func (g *restartGate) succeeded(now time.Time, hash string) {
	g.tried, g.failures = now, 0
	if g.hash == hash {
		g.hash = ""
	}
}

// failed notes that a restart has failed.
func (g *restartGate) failed(now time.Time) {
	g.tried = now
	g.failures++
}

// park notes that there was nothing to restart for the config of that hash.
func (g *restartGate) park(hash string) {
	g.failures = 0
	g.parked = g.hash == hash
}

// unpark has a parked config tried again at once, and failures forgotten: there
// is news of the device plugin or of the API server.
func (g *restartGate) unpark() { g.parked, g.failures = false, 0 }
