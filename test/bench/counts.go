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

// counted are what the kernel is asked for by one verb and all that it runs.
type counted struct{ calls, syncs, netlink, waits, execs, threads int }

func (c counted) String() string {
	return fmt.Sprintf("%d / %d / %d / %d / %d / %d", c.calls, c.syncs, c.netlink, c.waits, c.execs, c.threads)
}

// call is one line of strace -f: the process, and the system call with its
// arguments.
var call = regexp.MustCompile(`^\d+ +([a-z0-9_]+)\((.*)`)

// waiting are the requests for which the kernel waits for RCU: a link that is
// moved, set down or deleted, and a netns that is made. strace names what it can
// look up in /proc/net, and shows the messages of other namespaces' sockets as
// octets: RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK are 16, 17, 19, IFLA_NET_NS_FD
// is 28, and a struct ifinfomsg (rtnetlink(7)) ends with flags and change.
var waiting = []*regexp.Regexp{
	regexp.MustCompile(`RTM_(NEW|SET)LINK,.*IFLA_NET_NS_FD`), regexp.MustCompile(`nlmsg_type=0x1[03] .*\\x08\\x00\\x1c\\x00`),
	regexp.MustCompile(`RTM_(NEW|SET)LINK,.*ifi_flags=0, ifi_change=0x1[,}]`), regexp.MustCompile(`nlmsg_type=0x1[03] [^"]*"(\\x[0-9a-f]{2}){8}(\\x00){4}\\x01(\\x00){3}`),
	regexp.MustCompile(`RTM_DELLINK,|nlmsg_type=0x11 `), regexp.MustCompile(`(unshare|clone3?)\(.*CLONE_NEWNET`),
}

// counts has strace count what each verb asks of the kernel.
func (n *node) counts(ctx context.Context) ([]table.Row, error) {
	own, err := n.ours(10, ownAddresses())
	if err != nil {
		return nil, err
	}
	local, err := n.ours(10, map[string]any{"ipam": n.hostLocal("ours")})
	if err != nil {
		return nil, err
	}
	theirs, err := n.hostDevice()
	if err != nil {
		return nil, err
	}
	leased, macvlan, err := n.leased()
	if err != nil {
		return nil, err
	}
	var got [4][2]counted
	for i, c := range []contender{own, theirs, local, leased} {
		if got[i], err = n.count(ctx, c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	alone, err := n.count(ctx, macvlan)
	if err != nil {
		return nil, err
	}
	row := func(name string, ours, other counted, target string, met bool) table.Row {
		r := table.Row{Name: "(k) " + name, Ours: ours.String(), Other: other.String(), Target: target}
		if target != "" {
			r.Met = table.Met(met)
		}
		return r
	}
	one := func(c counted) bool { return c.execs == 1 && c.syncs == 0 }
	none := func(c counted) bool { return c.syncs == 0 }
	return []table.Row{
		row("calls / fsync / netlink / RCU / programs / threads of exclusive ADD, eni-ipam", got[0][0], got[1][0], "no exec, no fsync", one(got[0][0])),
		row("exclusive DEL, eni-ipam", got[0][1], got[1][1], "no exec, no fsync", one(got[0][1])),
		row("exclusive ADD, host-local", got[2][0], got[1][0], "", true),
		row("exclusive DEL, host-local", got[2][1], got[1][1], "", true),
		row("shared ADD, eni-ipam; other: macvlan alone", got[3][0], alone[0], "no fsync", none(got[3][0])),
		row("shared DEL, eni-ipam", got[3][1], alone[1], "no fsync", none(got[3][1])),
	}, nil
}

func (n *node) count(ctx context.Context, c contender) (out [2]counted, err error) {
	file := filepath.Join(n.Dir, "strace.out")
	traced := func(p program) program {
		p.argv = append([]string{"strace", "-f", "-qq", "-v", "-o", file, "-e", "signal=none", "--"}, p.argv...)
		p.env = append([]string{"PATH=" + os.Getenv("PATH")}, p.env...)
		return p
	}
	verbs := c
	verbs.add = traced(c.add)
	if _, err := verbs.add.run(ctx); err != nil {
		return out, err
	}
	if out[0], err = readStrace(file); err != nil {
		return out, err
	}
	if _, err := traced(c.del).run(ctx); err != nil {
		return out, err
	}
	out[1], err = readStrace(file)
	return out, err
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
