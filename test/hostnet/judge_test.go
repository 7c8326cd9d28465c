//go:build hostnet

package hostnet

import "strings"

// untouched fails if the primary ENI lost an address, its default route or its link since
// mark. The kernel's notices tell, so nothing is missed between two looks.
func (h *host) untouched(mark int) {
	h.Helper()
	notices := h.watch.String()
	for _, e := range h.excused {
		notices = notices[:e[0]] + strings.Repeat(" ", e[1]-e[0]) + notices[e[1]:]
	}
	if lost := lines(notices[mark:], "Deleted", primary.name); len(lost) > 0 {
		h.Errorf("the primary ENI lost:\n%s", strings.Join(lost, ""))
	}
	h.has(primary.addr()+"/24", "ip -4 addr show dev %s", primary.name)
	h.has("default via 10.0.0.1", "ip -4 route show default dev %s", primary.name)
}

// mark is the place in the kernel's notices from which something is judged.
func (h *host) mark() int { return len(h.watch.String()) }
