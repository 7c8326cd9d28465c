// Package catalog remembers EC2's answers about subnets and security groups, and which of them are worth another question.
package catalog

import (
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Retry is after how long EC2 is asked again for a name or an id that it did not know, or knew twice.
const Retry = 5 * time.Minute

// Catalog is the memory. It must not be used concurrently.
type Catalog struct {
	known  slots.Catalog
	doubts map[key]time.Time // when a key without just one answer is asked for again
	asking map[key]bool
}

type key struct {
	kind kind
	text string
}

type kind int

const (
	subnetID kind = iota
	subnetName
	groupID
	groupName
)

// Question has the ids and names to ask EC2 for.
type Question struct {
	SubnetIDs, SubnetNames, GroupIDs, GroupNames []string
}

// Subnets says whether subnets are asked for.
func (q Question) Subnets() bool { return len(q.SubnetIDs)+len(q.SubnetNames) > 0 }

// Groups says whether security groups are asked for.
func (q Question) Groups() bool { return len(q.GroupIDs)+len(q.GroupNames) > 0 }

// New returns an empty Catalog.
func New() *Catalog {
	return &Catalog{
		known: slots.Catalog{
			SubnetIDs: map[string][]vpc.Subnet{}, SubnetNames: map[string][]vpc.Subnet{},
			GroupIDs: map[string][]vpc.SecurityGroup{}, GroupNames: map[string][]vpc.SecurityGroup{},
		},
		doubts: map[key]time.Time{}, asking: map[key]bool{},
	}
}

// Known returns all answers. Nobody may change them.
func (c *Catalog) Known() slots.Catalog { return c.known }

// Ask returns the question for these NodeENIs that has no answer yet, or needs a new one. Each key counts as asked for until Answer.
func (c *Catalog) Ask(now time.Time, nodeENIs []v1alpha1.NodeENI) Question {
	var q Question
	subnetIDs, subnetNames, groupIDs, groupNames := slots.Need(nodeENIs)
	q.SubnetIDs = ask(c, now, subnetID, subnetIDs, c.known.SubnetIDs)
	q.SubnetNames = ask(c, now, subnetName, subnetNames, c.known.SubnetNames)
	q.GroupIDs = ask(c, now, groupID, groupIDs, c.known.GroupIDs)
	q.GroupNames = ask(c, now, groupName, groupNames, c.known.GroupNames)
	return q
}

func ask[T any](c *Catalog, now time.Time, of kind, texts []string, known map[string][]T) []string {
	var out []string
	for _, t := range texts {
		k := key{of, t}
		_, answered := known[t]
		if c.asking[k] || answered && (c.doubts[k].IsZero() || now.Before(c.doubts[k])) {
			continue
		}
		c.asking[k] = true
		out = append(out, t)
	}
	return out
}

// Due is when Ask may have another question, without a new NodeENI or refusal: the end of the earliest Retry, or that of one from now.
func (c *Catalog) Due(now time.Time) time.Time {
	due := now.Add(Retry)
	for _, at := range c.doubts {
		if at.After(now) && at.Before(due) {
			due = at
		}
	}
	return due
}

// Subnets takes the answer to a question. After an error nothing is known, and the keys may be asked for again.
func (c *Catalog) Subnets(now time.Time, q Question, list []vpc.Subnet, err error) {
	answer(c, now, subnetID, q.SubnetIDs, c.known.SubnetIDs, list, err, func(s vpc.Subnet) string { return s.ID })
	answer(c, now, subnetName, q.SubnetNames, c.known.SubnetNames, list, err, func(s vpc.Subnet) string { return s.Name })
}

// Groups takes the answer to a question, as Subnets does.
func (c *Catalog) Groups(now time.Time, q Question, list []vpc.SecurityGroup, err error) {
	answer(c, now, groupID, q.GroupIDs, c.known.GroupIDs, list, err, func(g vpc.SecurityGroup) string { return g.ID })
	answer(c, now, groupName, q.GroupNames, c.known.GroupNames, list, err, func(g vpc.SecurityGroup) string { return g.Name })
}

func answer[T any](c *Catalog, now time.Time, of kind, texts []string, known map[string][]T, list []T, err error, text func(T) string) {
	for _, t := range texts {
		k := key{of, t}
		delete(c.asking, k)
		if err != nil {
			continue
		}
		delete(c.doubts, k)
		known[t] = []T{}
		for _, v := range list {
			if text(v) == t {
				known[t] = append(known[t], v)
			}
		}
		if len(known[t]) != 1 {
			c.doubts[k] = now.Add(Retry)
		}
	}
}

// DoubtSubnet makes the next Ask ask for a subnet again, for EC2 has just refused it. So it does for each name that was found to mean it.
func (c *Catalog) DoubtSubnet(now time.Time, id string) {
	c.doubts[key{subnetID, id}] = now
	doubtNames(c, now, subnetName, c.known.SubnetNames, func(s vpc.Subnet) bool { return s.ID == id })
}

// DoubtGroups makes the next Ask ask for security groups again, as DoubtSubnet does.
func (c *Catalog) DoubtGroups(now time.Time, ids []string) {
	for _, id := range ids {
		c.doubts[key{groupID, id}] = now
	}
	doubtNames(c, now, groupName, c.known.GroupNames, func(g vpc.SecurityGroup) bool { return slices.Contains(ids, g.ID) })
}

func doubtNames[T any](c *Catalog, now time.Time, of kind, known map[string][]T, refused func(T) bool) {
	for name, list := range known {
		if slices.ContainsFunc(list, refused) {
			c.doubts[key{of, name}] = now
		}
	}
}

// NeedsVPC reports whether a name in one of these NodeENIs means a subnet only together with a VPC.
func NeedsVPC(list []v1alpha1.NodeENI) bool {
	return slices.ContainsFunc(list, func(o v1alpha1.NodeENI) bool { return o.Spec.SubnetName != "" || len(o.Spec.SubnetNames) > 0 })
}
