package fakeec2

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// kind describes the resources of a Describe other than DescribeNetworkInterfaces.
type kind[T any] struct {
	set   string // the answer's element
	least int    // MaxResults at least
	id    func(T) string
	keeps func(f filter, v T) (bool, error)
	show  func(T) string
}

// described answers a Describe: all resources, filtered, by pages.
func described[T any](s *Server, c *call, k kind[T], all []T, ids []string) (string, error) {
	l, err := c.listing(ids, k.least)
	if err != nil {
		return "", err
	}
	filters, err := c.filters()
	if err != nil {
		return "", err
	}
	var none T
	for _, f := range filters {
		if _, err := k.keeps(f, none); err != nil {
			return "", err
		}
	}
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(k.id(a), k.id(b)) })
	var shown []T
	more := ""
	for _, v := range all {
		if k.id(v) <= l.after {
			continue
		}
		kept := true
		for _, f := range filters {
			ok, _ := k.keeps(f, v) // the names were checked above
			kept = kept && ok
		}
		if !kept {
			continue
		}
		if l.most != 0 && len(shown) == l.most {
			more = next(k.id(shown[l.most-1]))
			break
		}
		shown = append(shown, v)
	}
	s.shuffle(len(shown), func(i, j int) { shown[i], shown[j] = shown[j], shown[i] })
	return items(k.set, shown, k.show) + more, nil
}

func badFilter(f filter) error {
	return refuse("InvalidParameterValue", "The filter '%s' is invalid", f.name)
}

// pick returns the values with the given ids, or all without an id. The first that is missing fails the call.
func pick[T any](ids []string, all map[string]T, code, missing string) ([]T, error) {
	if len(ids) == 0 {
		return slices.Collect(maps.Values(all)), nil
	}
	chosen := map[string]T{}
	for _, id := range ids {
		v, ok := all[id]
		if !ok {
			return nil, refuse(code, missing, id)
		}
		chosen[id] = v
	}
	return slices.Collect(maps.Values(chosen)), nil
}

// describeInstances is DescribeInstances (API_DescribeInstances.html): one reservation for each instance.
func (s *Server) describeInstances(c *call) (string, error) {
	ids := c.list("InstanceId")
	var all []*instance
	for _, id := range ids {
		i, err := s.findInstance(id)
		if err != nil {
			return "", err
		}
		all = append(all, i)
	}
	if len(ids) == 0 {
		for id := range s.instances {
			if i := s.known(id, c.now); i != nil {
				all = append(all, i)
			}
		}
	}
	return described(s, c, kind[*instance]{
		set: "reservationSet", least: 5,
		id: func(i *instance) string { return i.ID },
		keeps: func(f filter, i *instance) (bool, error) {
			if i == nil {
				i = &instance{}
			}
			if holds, asked := f.tagged(i.Tags); asked {
				return holds, nil
			}
			switch f.name {
			case "instance-state-name":
				return f.holds(i.State), nil
			case "instance-id":
				return f.holds(i.ID), nil
			case "instance-type":
				return f.holds(i.Type), nil
			case "vpc-id":
				return f.holds(s.subnet(i.SubnetID).VPCID), nil
			}
			return false, badFilter(f)
		},
		show: s.showInstance,
	}, slices.CompactFunc(sortInstances(all), func(a, b *instance) bool { return a == b }), ids)
}

func sortInstances(all []*instance) []*instance {
	slices.SortFunc(all, func(a, b *instance) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// states are InstanceState's codes.
func states() map[string]string {
	return map[string]string{"pending": "0", "running": "16", "shutting-down": "32", "terminated": "48", "stopping": "64", "stopped": "80"}
}

func (s *Server) showInstance(i *instance) string {
	n := s.subnet(i.SubnetID)
	out := item("instanceId", i.ID) + item("instanceType", i.Type) + item("instanceState", item("code", states()[i.State])+item("name", i.State))
	if i.State != "terminated" {
		out += item("subnetId", i.SubnetID) + item("vpcId", n.VPCID)
	}
	out += item("placement", item("availabilityZone", n.Zone)) + items("networkInterfaceSet", sortedRecords(i.enis), func(r *record) string {
		return item("networkInterfaceId", r.ID) + item("subnetId", r.SubnetID) + item("macAddress", r.MAC) + item("status", r.Status()) +
			item("attachment", s.showAttachment(r.ENI))
	}) + tagSet(i.Tags)
	return item("reservationId", strings.Replace(i.ID, "i-", "r-", 1)) + item("ownerId", Account) + item("instancesSet", item("item", out))
}

// describeTypes is DescribeInstanceTypes (API_DescribeInstanceTypes.html): at most 100 names.
func (s *Server) describeTypes(c *call) (string, error) {
	names := c.list("InstanceType")
	if len(names) > 100 {
		return "", refuse("InvalidParameterValue", "You can specify up to 100 instance types in the same request")
	}
	all, err := pick(names, s.types, "InvalidInstanceType", "The following supplied instance types do not exist: [%s]")
	if err != nil {
		return "", err
	}
	return described(s, c, kind[Type]{
		set: "instanceTypeSet", least: 5,
		id: func(t Type) string { return t.Name },
		keeps: func(f filter, t Type) (bool, error) {
			if f.name != "instance-type" {
				return false, badFilter(f)
			}
			return f.holds(t.Name), nil
		},
		show: func(t Type) string {
			i := -1
			cards := items("networkCards", t.Cards, func(n int) string {
				i++
				return item("networkCardIndex", strconv.Itoa(i)) + item("maximumNetworkInterfaces", strconv.Itoa(n))
			})
			per := strconv.Itoa(t.PerENI)
			return item("instanceType", t.Name) + item("networkInfo", item("maximumNetworkInterfaces", strconv.Itoa(t.limit()))+
				item("maximumNetworkCards", strconv.Itoa(len(t.Cards)))+item("defaultNetworkCardIndex", "0")+cards+
				item("ipv4AddressesPerInterface", per)+item("ipv6AddressesPerInterface", per)+item("ipv6Supported", "true")+
				item("enaSrdSupported", strconv.FormatBool(t.EnaExpress)))
		},
	}, all, names)
}

// describeSubnets is DescribeSubnets (API_DescribeSubnets.html).
func (s *Server) describeSubnets(c *call) (string, error) {
	ids := c.list("SubnetId")
	all, err := pick(ids, s.subnets, "InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist")
	if err != nil {
		return "", err
	}
	return described(s, c, kind[Subnet]{
		set: "subnetSet", least: 5,
		id: func(n Subnet) string { return n.ID },
		keeps: func(f filter, n Subnet) (bool, error) {
			if holds, asked := f.tagged(n.Tags); asked {
				return holds, nil
			}
			switch f.name {
			case "vpc-id":
				return f.holds(n.VPCID), nil
			case "subnet-id":
				return f.holds(n.ID), nil
			case "availability-zone":
				return f.holds(n.Zone), nil
			}
			return false, badFilter(f)
		},
		show: func(n Subnet) string {
			out := item("subnetId", n.ID) + item("subnetArn", s.arn("subnet/"+n.ID)) + item("state", "available") + item("vpcId", n.VPCID) +
				item("ownerId", Account) + item("availabilityZone", n.Zone) + item("availableIpAddressCount", strconv.Itoa(s.free(n)))
			if n.IPv4.IsValid() {
				out += item("cidrBlock", n.IPv4.String())
			}
			if n.IPv6.IsValid() {
				out += item("ipv6CidrBlockAssociationSet", item("item", item("ipv6CidrBlock", n.IPv6.String())+
					item("ipv6CidrBlockState", item("state", "associated"))))
			}
			return out + tagSet(n.Tags)
		},
	}, all, ids)
}

// describeGroups is DescribeSecurityGroups (API_DescribeSecurityGroups.html). GroupName is for the default VPC only, which the fake has not.
func (s *Server) describeGroups(c *call) (string, error) {
	if len(c.list("GroupName")) > 0 {
		return "", refuse("InvalidGroup.NotFound", "The security group does not exist in default VPC: use the filter group-name")
	}
	ids := c.list("GroupId")
	all, err := pick(ids, s.groups, "InvalidGroup.NotFound", "The security group '%s' does not exist")
	if err != nil {
		return "", err
	}
	return described(s, c, kind[Group]{
		set: "securityGroupInfo", least: 5,
		id: func(g Group) string { return g.ID },
		keeps: func(f filter, g Group) (bool, error) {
			if holds, asked := f.tagged(g.Tags); asked {
				return holds, nil
			}
			switch f.name {
			case "vpc-id":
				return f.holds(g.VPCID), nil
			case "group-name":
				return f.holds(g.Name), nil
			case "group-id":
				return f.holds(g.ID), nil
			}
			return false, badFilter(f)
		},
		show: func(g Group) string {
			return item("groupId", g.ID) + item("groupName", text(g.Name)) + item("vpcId", g.VPCID) + item("ownerId", Account) +
				item("groupDescription", text(g.Name)) + tagSet(g.Tags)
		},
	}, all, ids)
}
