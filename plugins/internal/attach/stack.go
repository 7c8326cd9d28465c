package attach

// stackNeed is more than the calls of a verb have on the stack at any time, in
// octets: two thirds of it is the buffer of netlink's Receive.
const stackNeed = 96 << 10

// GrowStack gives the calling goroutine at once the stack that a verb needs, before
// it is deep in calls. Else the runtime doubles it from 2 KiB six times, and looks up
// every function that is being called in the program's tables each time: 0.4 MiB of
// the file that nothing else would bring into memory, and a tenth of what a verb
// computes (docs/performance.md). Used is 0: the frame costs nothing until it is
// written to.
//
//go:noinline
func GrowStack(used int) {
	if used == 0 {
		return
	}
	var frame [stackNeed]byte
	clear(frame[:used])
}
