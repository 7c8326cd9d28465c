package reconcile

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// imposedFor is the time without an imposition after which it counts as over. It is longer than a DHCP lease's renewal (half of an hour in a VPC).
const imposedFor = 2 * time.Hour

// imposition is one kind of thing that others put on an ENI's link: routes of a protocol,
// or an address.
type imposition struct {
	eni     device.ENIID
	subject string
}

// imposed logs the beginning of an imposition, not its repetitions. Others repeat it with
// each renewal of a lease, each router advertisement, each return of the link from a pod.
func (l *logbook) imposed(t inventory.IdleLink, subject, message string, now time.Time) {
	key := imposition{t.Device.ENIID, subject}
	last, known := l.imposing[key]
	if l.imposing == nil {
		l.imposing = map[imposition]time.Time{}
	}
	if l.imposing[key] = now; known && now.Sub(last) < imposedFor {
		return
	}
	l.out.WithFields(logrus.Fields{"eniID": t.Device.ENIID, "interface": t.Link.Name, "by": subject}).Info(message)
}

// imposers are the protocols of the routes that others put on the ENI's link, sorted.
func (l *logbook) imposers(eni device.ENIID) (who []string) {
	for _, key := range slices.SortedFunc(maps.Keys(l.imposing), func(a, b imposition) int { return strings.Compare(a.subject, b.subject) }) {
		if key.eni == eni && !strings.HasPrefix(key.subject, "address ") {
			who = append(who, key.subject)
		}
	}
	return who
}

// forget logs the end of impositions that have not come for imposedFor, and drops them. It
// also drops the impositions on ENIs that are no longer declared.
func (l *logbook) forget(declared map[device.ENIID]bool, now time.Time) {
	for key, last := range l.imposing {
		over := now.Sub(last) >= imposedFor
		if !declared[key.eni] || over {
			delete(l.imposing, key)
		}
		if over {
			l.out.WithFields(logrus.Fields{"eniID": key.eni, "by": key.subject}).Info("others put nothing on this ENI's link any more")
		}
	}
}
