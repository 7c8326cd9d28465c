package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

// counted are a verb's requests to the kernel, with all programs that it runs.
type counted struct{ calls, syncs, netlink, waits, execs, threads int }

func (c counted) String() string {
	return fmt.Sprintf("%d / %d / %d / %d / %d / %d", c.calls, c.syncs, c.netlink, c.waits, c.execs, c.threads)
}

// call is one line of strace -f: the process, and the system call with its arguments.
var call = regexp.MustCompile(`^\d+ +([a-z0-9_]+)\((.*)`)

// waiting are the requests for which the kernel waits for RCU: a link is moved, set down or deleted, or a
// netns is made. strace decodes sockets that it finds in /proc/net, and shows messages of other
// namespaces' sockets as octets. RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK are 16, 17, 19, IFLA_NET_NS_FD is
// 28, and a struct ifinfomsg (rtnetlink(7)) ends with flags and change.
var waiting = []*regexp.Regexp{
	regexp.MustCompile(`RTM_(NEW|SET)LINK,.*IFLA_NET_NS_FD`), regexp.MustCompile(`nlmsg_type=0x1[03] .*\\x08\\x00\\x1c\\x00`),
	regexp.MustCompile(`RTM_(NEW|SET)LINK,.*ifi_flags=0, ifi_change=0x1[,}]`),
	regexp.MustCompile(`nlmsg_type=0x1[03] [^"]*"(\\x[0-9a-f]{2}){8}(\\x00){4}\\x01(\\x00){3}`),
	regexp.MustCompile(`RTM_DELLINK,|nlmsg_type=0x11 `), regexp.MustCompile(`(unshare|clone3?)\(.*CLONE_NEWNET`),
}

func (n *node) counts(ctx context.Context) (rows []table.Row, err error) {
	got := map[way][2]counted{}
	for _, w := range waysOf(comparisons) {
		if got[w], err = n.count(ctx, w); err != nil {
			return nil, fmt.Errorf("%s: %w", w, err)
		}
	}
	for _, c := range comparisons {
		for i, verb := range []string{"ADD", "DEL"} {
			ours := got[c.ours][i]
			r := table.Row{Item: itemCounts, Name: c.ours.called(verb), Against: c.other.String(), Ours: ours.String(), Other: got[c.other][i].String()}
			r.Target, r.Met = "no fsync", table.Met(ours.syncs == 0)
			if c.ours.kind == exclusive && c.ours.ipam != hostLocal {
				r.Target, r.Met = "no exec, no fsync", table.Met(ours.syncs == 0 && ours.execs == 1)
			}
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func (n *node) count(ctx context.Context, w way) (out [2]counted, err error) {
	all, err := n.contenders(w, 1)
	if err != nil {
		return out, err
	}
	file := filepath.Join(n.Dir, "strace.out")
	traced := func(p program) program {
		p.argv = append([]string{"strace", "-f", "-qq", "-v", "-o", file, "-e", "signal=none", "--"}, p.argv...)
		p.env = append([]string{"PATH=" + os.Getenv("PATH")}, p.env...)
		return p
	}
	for i, p := range []program{all[0].add, all[0].del} {
		if _, err := traced(p).run(ctx); err != nil {
			return out, err
		}
		if out[i], err = readStrace(file); err != nil {
			return out, err
		}
	}
	return out, nil
}

func readStrace(file string) (c counted, err error) {
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		return c, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := call.FindStringSubmatch(lines.Text())
		if m == nil {
			continue // the rest of one that was interrupted
		}
		c.calls++
		if slices.ContainsFunc(waiting, func(r *regexp.Regexp) bool { return r.MatchString(m[0]) }) {
			c.waits++
		}
		switch m[1] {
		case "fsync", "fdatasync", "sync_file_range", "syncfs":
			c.syncs++
		case "sendto", "sendmsg":
			if strings.Contains(m[2], "nlmsg_") || strings.Contains(m[2], "AF_NETLINK") {
				c.netlink++
			}
		case "execve", "execveat":
			c.execs++
		case "clone", "clone3", "vfork", "fork":
			c.threads++
		}
	}
	return c, lines.Err()
}
