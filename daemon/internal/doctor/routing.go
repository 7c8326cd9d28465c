package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// routing checks the capability that --source-routing needs.
func routing(_ context.Context, o Options) []Finding {
	const check = "source routing"
	if !o.SourceRouting {
		return ok(check, "not asked for (--source-routing)")
	}
	may, err := netAdmin()
	switch {
	case err != nil:
		return warn(check, "see the Problem SourceRoutingFailed of multi-enid status", "it cannot be told whether rules may be made: %v", err)
	case !may:
		return fail(check, "give the daemon's container the capability NET_ADMIN, as deploy/daemon.yaml does, and run doctor in it",
			"rules and routes cannot be made: NET_ADMIN is missing")
	}
	return ok(check, "rules and routes may be made")
}

// netAdmin says whether the calling thread has the capability NET_ADMIN.
func netAdmin() (bool, error) {
	header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0, nil
}
