package fakeec2

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

var sequences = flag.Int("sequences", 4, "generated sequences")

// TestGenerated: after random calls, events and lags, a Describe through the indexes finds the ENIs that a look at each finds, and
// addresses, instances and counts agree with the ENIs.
func TestGenerated(t *testing.T) {
	for n := range *sequences {
		seed := uint64(n)
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, func(c *Config) {
			c.AttachTakes, c.DetachTakes, c.TerminateTakes, c.CreateTakes = 3*time.Second, 4*time.Second, 5*time.Second, time.Second
			c.LagOf = func() time.Duration { return time.Duration(r.IntN(6)) * time.Second }
			c.DeleteLag = 4 * time.Second
			c.Stuck = func(e ENI) bool { return strings.HasSuffix(e.ID, "7") }
			c.ENIs = []ENI{{ID: "eni-odd", SubnetID: "subnet-1", IPv4: addresses("10.0.1.200"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.64/27")}}}
		})
		for step := range 80 {
			w.pass(time.Duration(r.IntN(3)) * time.Second)
			did := w.random(r)
			if faults := w.disagreements(); len(faults) > 0 {
				t.Fatalf("seed %d, step %d, %s:\n%s", seed, step, did, strings.Join(faults, "\n"))
			}
		}
		if sum := w.Tally(""); sum.Mutating < 10 {
			t.Errorf("seed %d: %+v", seed, sum)
		}
	}
}

func addresses(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// random does something to a random ENI or instance; refusals are fine.
func (w *world) random(r *rand.Rand) string {
	all := w.All()
	eni := all[r.IntN(len(all))]
	instance := []string{"i-1", "i-3", "i-9"}[r.IntN(3)]
	switch r.IntN(12) {
	case 0, 1, 2:
		_, _ = w.sdk.CreateNetworkInterface(w.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: aws.String([]string{"subnet-1", "subnet-2"}[r.IntN(2)]),
			ClientToken: aws.String(fmt.Sprint(r.IntN(40))), TagSpecifications: tags("slot", fmt.Sprint(r.IntN(5))),
			SecondaryPrivateIpAddressCount: aws.Int32(int32(r.IntN(3)))})
	case 3, 4, 5:
		_, _ = w.attach(eni.ID, instance, int32(r.IntN(4)), 0)
	case 6, 7:
		_ = w.detach(eni.Attachment(), r.IntN(3) == 0)
	case 8:
		_ = w.delete(eni.ID)
	case 9:
		_, _ = w.sdk.CreateTags(w.Context(), &ec2.CreateTagsInput{Resources: []string{eni.ID}, Tags: tags("slot", fmt.Sprint(r.IntN(5)))[0].Tags})
	case 10:
		_, _ = w.sdk.AssignPrivateIpAddresses(w.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &eni.ID, Ipv4PrefixCount: aws.Int32(1)})
	case 11:
		if r.IntN(4) == 0 {
			w.Terminate(instance)
			w.Launch(Instance{ID: instance, Type: "c5n.xlarge", SubnetID: "subnet-1"})
		}
	}
	events := w.Events()
	if len(events) == 0 {
		return "nothing"
	}
	last := events[len(events)-1]
	return fmt.Sprintf("%s of %s: %q", last.Action, last.ENI.ID, last.Code)
}

// disagreements compares the Server's indexes and counts with a look at each ENI.
func (w *world) disagreements() (faults []string) {
	for _, asked := range []string{"tag:slot=1", "tag-key=slot", "attachment.instance-id=i-1", "subnet-id=subnet-2", "status=available", "tag:slot=1,3"} {
		name, values, _ := strings.Cut(asked, "=")
		f := filter{name, strings.Split(values, ",")}
		var want, got []string
		for _, e := range w.All() {
			if seen, there := w.enis[e.ID].seen(w.now); there {
				if keeps, err := f.keeps(&seen); keeps && err == nil {
					want = append(want, e.ID)
				}
			}
		}
		found, err := w.describe(asked)
		for _, n := range found {
			got = append(got, *n.NetworkInterfaceId)
		}
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			faults = append(faults, fmt.Sprintf("%s: %v %v, want %v", asked, got, err, want))
		}
	}
	used, living := map[netip.Addr]string{}, 0
	free := map[string]int{"subnet-1": 256 - 5, "subnet-2": 16 - 5}
	for _, e := range w.All() {
		if !e.Deleted.IsZero() {
			continue
		}
		living++
		for _, a := range e.IPv4 {
			if used[a] != "" {
				faults = append(faults, fmt.Sprintf("%s and %s have %s", used[a], e.ID, a))
			}
			used[a] = e.ID
			free[e.SubnetID]--
		}
		for _, p := range e.Prefixes {
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				if used[a] != "" {
					faults = append(faults, fmt.Sprintf("%s and %s have %s", used[a], e.ID, a))
				}
				used[a] = e.ID
				free[e.SubnetID]--
			}
		}
		if i := w.instances[e.Instance]; e.Instance != "" {
			if _, has := i.enis[w.enis[e.ID]]; !has {
				faults = append(faults, fmt.Sprintf("%s has not %s", e.Instance, e.ID))
			}
		}
	}
	if living != w.living {
		faults = append(faults, fmt.Sprintf("%d ENIs, counted %d", living, w.living))
	}
	for id, i := range w.instances {
		for r := range i.enis {
			if r.Instance != id || !r.Deleted.IsZero() {
				faults = append(faults, fmt.Sprintf("%s has %s, which is at %q", id, r.ID, r.Instance))
			}
		}
	}
	for _, id := range []string{"subnet-1", "subnet-2"} {
		n := w.subnets[id]
		if got := w.Server.free(n); got != free[id] {
			faults = append(faults, fmt.Sprintf("%s: %d free, want %d", id, got, free[id]))
		}
		faults = append(faults, w.lowest(n, used)...)
	}
	return faults
}

// lowest: the next address is the lowest one that no ENI has.
func (w *world) lowest(n Subnet, used map[netip.Addr]string) []string {
	want := ""
	for a := n.IPv4.Addr(); n.IPv4.Contains(a); a = a.Next() {
		if used[a] == "" && !reserved(n.IPv4, netip.PrefixFrom(a, 32)) {
			want = a.String()
			break
		}
	}
	got := ""
	if next, err := w.choose(n, n.IPv4, 32, 1); err == nil {
		got = next[0].Addr().String()
	}
	if got != want {
		return []string{fmt.Sprintf("%s: the next address is %q, want %q", n.ID, got, want)}
	}
	return nil
}
