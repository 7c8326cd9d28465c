package inventory

import (
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// quietTime is how long a link must stay without marks before its ENI counts as ours. The VPC CNI attaches an ENI,
// polls the metadata with waits that double from 100 ms, and then sets rule and table (waitForENIAndIPsAttached in
// pkg/awsutils/awsutils.go, setupENINetwork in pkg/networkutils/network.go of amazon-vpc-cni-k8s), which takes seconds.
// After a boot no pod comes sooner: the CNI writes its conflist after that.
const quietTime = 30 * time.Second

// unlessForeign returns the ENI found at the declaration's slot, or "" where others attach ENIs too and it may be
// theirs. EC2's tag decides if known, else the marks on the link, which each Sync reads, also for our ENIs. A link in a
// pod may have any marks. Without readable marks or a link, an ENI stays as it is.
func (j *joiner) unlessForeign(decl *declaration, eni device.ENIID) device.ENIID {
	if j.Lookup != LookupGuarded {
		return eni
	}
	row, p := j.rowBefore(eni), j.place(eni)
	held := row != nil && (!j.Attachments.Known || j.held[row.PCIAddress])
	if e := j.enis[eni]; e.Described {
		if e.NodeENI != decl.nodeENI {
			j.foreign(decl, eni, tagged(e.NodeENI), fmt.Sprintf("tag the ENI NodeENI=%s if it is yours, or give spec.deviceIndex another value", decl.nodeENI))
		}
		if e.NodeENI == decl.nodeENI || held {
			return eni
		}
		return ""
	}
	ours := row != nil && (row.Phase != nodestate.PhaseDraining || p.link == nil) || j.beforeTheBoot(decl, eni)
	if row != nil {
		j.others[eni] = row.Cause // it drains for the same cause until there is news
	}
	switch {
	case held, row != nil && ours && (!j.Foreign.Known || p.link == nil):
		return eni
	case !j.Foreign.Known || p.link == nil:
		return "" // nothing can be said of it yet
	case j.Foreign.Value[p.link.Index] != "":
		j.foreign(decl, eni, j.Foreign.Value[p.link.Index], "give spec.deviceIndex another value, or name the ENI in status.attachments")
		return ""
	case ours:
		return eni
	}
	if left := quietTime - j.Unmarked[p.link.Index]; left > 0 {
		j.lookIn(left)
		return ""
	}
	return eni
}

// beforeTheBoot says whether an ENI was this NodeENI's, and ready, before this boot: then it needs no time without
// marks.
func (j *joiner) beforeTheBoot(decl *declaration, eni device.ENIID) bool {
	r := j.prev[eni]
	return r != nil && j.Checkpoint.BootID != j.BootID && r.NodeENI == decl.nodeENI && r.Phase == nodestate.PhaseReady
}

func tagged(name string) string {
	if name == "" {
		return "EC2 shows no tag NodeENI on it"
	}
	return "EC2 shows the tag NodeENI=" + name + " on it"
}

func (j *joiner) foreign(decl *declaration, eni device.ENIID, why, remedy string) {
	j.others[eni] = "the ENI seems to belong to another program: " + why
	j.problem(reason.ForeignENI, decl.nodeENI, eni.String(), "the ENI at device index %d in %s seems to belong to another program: %s; "+
		"%s", decl.index, decl.subnet, why, remedy)
}

// lookIn has Join called again after d at the latest.
func (j *joiner) lookIn(d time.Duration) {
	if at := j.Now.Add(d); j.lookAgain.IsZero() || at.Before(j.lookAgain) {
		j.lookAgain = at
	}
}
