package nodestate

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// DevicePluginMemory keeps the daemon's knowledge of the device plugin and its config across the daemon's own restarts.
// Its times are wall-clock times: the clock may have been set back since, so that a time to come counts as now.
type DevicePluginMemory struct {
	// Seen is the config as it was last found on the disk.
	Seen SeenConfig `json:"seen,omitzero"`
	// Readers are the runs of containers that are known to have read the config of
	// the hash ReadersOf, sorted. They have not read a config of another hash.
	ReadersOf string   `json:"readersOf,omitempty"`
	Readers   []Reader `json:"readers,omitempty"`
	// Tried is when a restart was last tried, and Failures is how many have failed since the last success.
	Tried    time.Time `json:"tried,omitzero"`
	Failures int       `json:"failures,omitempty"`
	// Late are devices that were advertised in an earlier boot and are not ready in
	// this one. A restart waits for them until LateUntil.
	Late      []device.ENIID `json:"late,omitempty"`
	LateUntil time.Time      `json:"lateUntil,omitzero"`
}

// Reader is one run of a container that reads the device plugin's config.
type Reader struct {
	// Pod is the pod's UID, and Container the container's name.
	Pod       string `json:"pod"`
	Container string `json:"container"`
	// Started is the kubelet's startedAt, in seconds of Unix time, rounded down.
	Started int64 `json:"started"`
}

// StartedAt is when the run started, rounded down to a second.
func (r Reader) StartedAt() time.Time { return time.Unix(r.Started, 0) }

// SeenConfig identifies a config file without its content. While inode number and change time stay the same, so has the
// content: nobody can set the change time, and each write, rename and change of the attributes renews it (inode(7)).
type SeenConfig struct {
	// Hash is the hash of the canonical content; "" when no config was seen.
	Hash string `json:"hash,omitempty"`
	// Inode and Changed (st_ctim) are 0 and zero where they could not be read.
	Inode   uint64    `json:"inode,omitempty"`
	Changed time.Time `json:"changed,omitzero"`
	// Folder is the change time of its folder, which is another after each change of a name in it, or of its own.
	Folder time.Time `json:"folder,omitzero"`
	// Since is a time from which on the file has had this content.
	Since time.Time `json:"since,omitzero"`
}

// SameFile says whether both are one file that nobody has changed or replaced between the two looks.
func (s SeenConfig) SameFile(o SeenConfig) bool {
	return s.Inode == o.Inode && s.Changed.Equal(o.Changed)
}
