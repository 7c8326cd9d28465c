package steps

// stackNeed exceeds the stack use of every verb, in octets. Two thirds of it is the
// buffer of netlink's Receive.
const stackNeed = 96 << 10

// GrowStack gives the calling goroutine the stack that a verb needs, in one step. The
// runtime would double it six times from 2 KiB, and look up every caller in the
// program's tables each time: a tenth of a verb's computing (docs/performance.md).
// Pass 0: the frame costs nothing until it is written to.
//
//go:noinline
func GrowStack(used int) {
	if used == 0 {
		return
	}
	var frame [stackNeed]byte
	clear(frame[:used])
}
