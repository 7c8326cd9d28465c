package pluginrestart

import "time"

// The times between a change of the config and the restart of the device plugin.
const (
	restartQuiet     = 2 * time.Second  // how long the config must stay the same: changes come in groups
	restartLatest    = 10 * time.Second // restartLatest bounds the delay by restartQuiet
	restartApart     = 30 * time.Second // the least time between two restarts: each withdraws all the plugin's resources for a moment
	restartApartMost = 5 * time.Minute  // restartApartMost bounds the wait after failures, which doubles from restartApart
)

// schedule decides when a restart is due. Its zero value knows of no config.
type schedule struct {
	hash string // the config that waits for a restart; "" for none
	// first and last are when the config began to differ from the served one, and when it last changed.
	first, last time.Time
	// tried is the time of the last try, and failures the number of failures since the last success.
	tried     time.Time
	failures  int
	suspended bool // no device plugin needs a restart for this config; a later one reads it by itself
	// jitter lengthens the wait for a config to settle, so that a cluster's nodes do not withdraw their resources at
	// once.
	jitter time.Duration
}

// update notes the hash of the config on disk, and of the served one.
func (s *schedule) update(now time.Time, hash, served string) {
	for _, t := range []*time.Time{&s.first, &s.last, &s.tried} {
		if t.After(now) {
			*t = now // the clock was set back
		}
	}
	switch {
	case hash == served:
		s.hash, s.suspended = "", false
	case s.hash == "" || s.suspended && s.hash != hash:
		s.hash, s.first, s.last, s.suspended = hash, now, now, false
	case s.hash != hash:
		s.hash, s.last = hash, now
	}
}

// due says whether to restart now. If not, it returns the time after which to ask again; 0 when no config waits.
func (s *schedule) due(now time.Time) (bool, time.Duration) {
	if s.hash == "" || s.suspended {
		return false, 0
	}
	at := s.last.Add(restartQuiet + s.jitter)
	if latest := s.first.Add(restartLatest); latest.Before(at) {
		at = latest
	}
	if !s.tried.IsZero() {
		if next := s.tried.Add(restartBackoff(s.failures)); next.After(at) {
			at = next
		}
	}
	if wait := at.Sub(now); wait > 0 {
		return false, wait
	}
	return true, 0
}

// restartBackoff is the wait after so many failures.
func restartBackoff(failures int) time.Duration {
	return min(restartApart<<min(failures, 10), restartApartMost)
}

// succeeded notes that the config of that hash is served. By now another one may be on disk.
func (s *schedule) succeeded(now time.Time, hash string) {
	s.tried, s.failures = now, 0
	if s.hash == hash {
		s.hash = ""
	}
}

func (s *schedule) failed(now time.Time) {
	s.tried = now
	s.failures++
}

// suspend notes that there was no device plugin to restart for the config of that hash.
func (s *schedule) suspend(hash string) {
	s.failures = 0
	s.suspended = s.hash == hash
}

// retry has a suspended config tried at once and forgets failures, after news of the device plugin or the API server.
func (s *schedule) retry() { s.suspended, s.failures = false, 0 }
