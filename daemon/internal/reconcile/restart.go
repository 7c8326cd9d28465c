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
}

// observe notes the hash of the config as it now is, and that of the one which
// the device plugin is known to serve.
func (g *restartGate) observe(now time.Time, hash, confirmed string) {
	switch {
	case hash == confirmed:
		g.hash = ""
	case g.hash == "":
		g.hash, g.first, g.last = hash, now, now
	case g.hash != hash:
		g.hash, g.last = hash, now
	}
}

// due says whether to restart now, and if not, after how long to ask again; 0
// when nothing waits for a restart.
func (g *restartGate) due(now time.Time) (bool, time.Duration) {
	if g.hash == "" {
		return false, 0
	}
	at := g.last.Add(restartQuiet)
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

func (g *restartGate) apart() time.Duration {
	d := restartApart
	for range g.failures {
		if d *= 2; d >= restartBackOff {
			return restartBackOff
		}
	}
	return d
}

// done notes that a restart was tried.
func (g *restartGate) done(now time.Time, ok bool) {
	g.tried = now
	if !ok {
		g.failures++
		return
	}
	g.hash, g.failures = "", 0
}
