// Package adversary does to a network interface what the kernel allows to whoever
// has CAP_NET_ADMIN in its netns, as a pod may.
package adversary

import "errors"

// ErrCannot is returned by what this kernel, this user or this device cannot do.
var ErrCannot = errors.New("not possible here")
