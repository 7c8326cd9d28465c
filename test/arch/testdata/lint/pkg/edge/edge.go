// Package edge shows that the clock rule holds in the daemon only, and the rest everywhere.
package edge

import (
	"context"
	"time"
)

// Now is allowed here.
func Now() time.Time { return time.Now() }

// Context is not.
func Context() context.Context {
	return context.TODO() // want "take the caller's context"
}
