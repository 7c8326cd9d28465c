package inventory

import (
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// quietTime is how long a link must have been seen without marks before its ENI is taken for ours. The VPC CNI
// attaches an ENI, asks the metadata for it with waits that double from 100 ms, and gives it rule and table at its
// next answer (waitForENIAndIPsAttached in pkg/awsutils/awsutils.go and setupENINetwork in
// pkg/networkutils/network.go of amazon-vpc-cni-k8s): it needs no longer after we could have seen the ENI than the
// metadata needed before, which are seconds. After a boot no pod can come sooner, since the CNI writes its conflist
// behind all that.
const quietTime = 30 * time.Second

// unlessForeign returns the ENI that was found at the declaration's slot, or "" where others attach ENIs too and it
// is theirs, or may be. EC2's tag decides where it is known. Else the marks on the link do: they are asked about at
// every look, for an ENI that is ours too, but for one that a pod has, whose link may have any. An ENI stays as it is
// where its marks cannot be read, or it has no link to look at.
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

// beforeTheBoot says whether an ENI was this NodeENI's, and ready, when the boot before
// this one ended: its time without marks is over.
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

// foreign reports an ENI at the declaration's slot as somebody else's.
func (j *joiner) foreign(decl *declaration, eni device.ENIID, why, remedy string) {
	j.others[eni] = "the ENI seems to belong to another program: " + why
	j.problem(reason.ForeignENI, decl.nodeENI, eni.String(), "the ENI at device index %d in %s seems to belong to another program: %s; "+
		"%s", decl.index, decl.subnet, why, remedy)
}

// lookIn has Join called again after a time, or sooner.
func (j *joiner) lookIn(d time.Duration) {
	if at := j.Now.Add(d); j.lookAgain.IsZero() || at.Before(j.lookAgain) {
		j.lookAgain = at
	}
}
