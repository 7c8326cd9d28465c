//go:build hostnet

package hostnet

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// quiet is how long nothing may be rewritten in the end.
const quiet = 10 * time.Second

// untouched fails if the primary lost address, route or link since mark, or a link had its pod's name in the host.
func (h *host) untouched(mark int) {
	h.Helper()
	notices := h.watch.String()
	for _, e := range h.excused {
		notices = notices[:e[0]] + strings.Repeat(" ", e[1]-e[0]) + notices[e[1]:]
	}
	if lost := lines(notices[mark:], "Deleted", primary.name); len(lost) > 0 {
		h.Errorf("the primary ENI lost:\n%s", strings.Join(lost, ""))
	}
	if named := lines(notices[mark:], ": net1@"); len(named) > 0 {
		h.Errorf("%d times a link was seen in the host under its pod's name, the first time:\n%s", len(named), named[0])
	}
	h.has(primary.addr()+"/24", "ip -4 addr show dev %s", primary.name)
	h.has("default via 10.0.0.1", "ip -4 route show default dev %s", primary.name)
}

func (h *host) mark() int { return len(h.watch.String()) }

// restful waits until the daemon has finished with the ENIs of pods; then only the primary may be rewritten.
func (h *host) restful() {
	h.Helper()
	h.clean(owned, shared)
	for _, e := range []eni{owned, shared} { // the kernel itself checks a link-local address for a second
		if why := await(5*time.Second, func() string { return h.sh("ip -6 addr show dev %s tentative", e.name) }); why != "" {
			h.Errorf("%s has a tentative address: %s", e.name, why)
		}
	}
	from := h.mark()
	time.Sleep(quiet)
	var rewritten []string
	for line := range strings.Lines(h.watch.String()[from:]) {
		if !strings.Contains(line, primary.name) {
			rewritten = append(rewritten, line)
		}
	}
	if len(rewritten) > 0 {
		h.Errorf("%d notices in %s, in which nobody had anything to do:\n%s", len(rewritten), quiet, strings.Join(rewritten, ""))
	}
}

// stamp is the time format before a notice of ip -ts.
const stamp = "2006-01-02T15:04:05.000000"

// brief fails if a foreign default route by an ENI of pods, in the watch after from, stood longer than the daemon
// may need by the kernel's own times. Half must be gone within 200 ms. All hosts share two processors here, so the
// slowest may take a second.
func (h *host) brief(from int, enis ...eni) {
	h.Helper()
	var stood []time.Duration
	for _, e := range enis {
		var since time.Time
		for _, line := range lines(h.watch.String()[from:], "default via", "src "+e.addr()+" ") {
			at, err := time.Parse(stamp, line[1:1+len(stamp)])
			h.do(err)
			if !strings.Contains(line, "Deleted") {
				since = at
			} else if !since.IsZero() {
				stood = append(stood, at.Sub(since))
				since = time.Time{}
			}
		}
		if !since.IsZero() && h.unclean(e) != "" {
			h.Errorf("the default route by %s of %s was never removed", e.name, since)
		}
	}
	slices.Sort(stood)
	if len(stood) == 0 {
		h.Error("nobody wrote a default route, so the scene shows nothing")
		return
	}
	median, worst := stood[len(stood)/2], stood[len(stood)-1]
	h.Logf("%d default routes stood for %s in the median, %s at most", len(stood), median, worst)
	if median > 200*time.Millisecond || worst > time.Second {
		h.Errorf("default routes of others stood for %s in the median, %s at most", median, worst)
	}
}

// clean waits until idle ENIs have no default route in the main table, ignore routers, and have their source routing.
func (h *host) clean(enis ...eni) {
	h.Helper()
	for _, e := range enis {
		if why := await(2*time.Second, func() string { return h.unclean(e) }); why != "" {
			h.Errorf("idle %s: %s", e.name, why)
		}
	}
}

func (h *host) unclean(e eni) string {
	for _, family := range []string{"-4", "-6"} {
		for _, protocol := range []string{"", "proto ra", "proto dhcp"} {
			route := "default"
			if protocol != "" {
				route = protocol
			}
			if out := h.sh("ip %s route show table main %s dev %s", family, route, e.name); out != "" {
				return fmt.Sprintf("%s has main-table routes: %s", e.name, out)
			}
		}
	}
	// The kernel's mark of addresses from advertisements.
	if out := h.sh("ip -6 addr show dev %s scope global mngtmpaddr", e.name); out != "" {
		return fmt.Sprintf("%s has addresses that were announced: %s", e.name, out)
	}
	ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + e.name + "/accept_ra")
	if err != nil {
		return err.Error()
	}
	if strings.TrimSpace(string(ra)) != "0" {
		return fmt.Sprintf("%s has accept_ra %s", e.name, ra)
	}
	return h.unruled(e)
}

func (h *host) foreign(e eni) string {
	h.Helper()
	handle, err := link.Open()
	h.do(err)
	defer handle.Close()
	index, err := net.InterfaceByName(e.name)
	h.do(err)
	use, err := handle.ForeignUse()
	h.do(err)
	return use[index.Index]
}

func (h *host) unruled(e eni) string {
	if !strings.Contains(h.sh("ip rule"), "from "+e.addr()+" ") {
		return "no rule from " + e.addr()
	}
	return ""
}

// logTime matches the varying part of equal log lines.
var logTime = regexp.MustCompile(`time="[^"]*" `)

func (h *host) calm(daemon *output) {
	h.Helper()
	count := map[string]int{}
	for line := range strings.Lines(daemon.String()) {
		count[logTime.ReplaceAllString(line, "")]++
	}
	for line, n := range count {
		if n > 3 {
			h.Errorf("the daemon says %d times: %s", n, line)
		}
	}
}
