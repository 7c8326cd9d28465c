package reconcile

import "time"

// The times of package pluginrestart, as these tests expect them.
const (
	restartQuiet     = 2 * time.Second
	restartLatest    = 10 * time.Second
	restartApart     = 30 * time.Second
	restartApartMost = 5 * time.Minute
	lookEvery        = 5 * time.Minute
	readTime         = 10 * time.Second
	rebootWait       = 2 * time.Minute
)
