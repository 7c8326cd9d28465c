package fakeec2

import (
	"fmt"
	"net/netip"
	"slices"
)

// Subnet is the source of addresses. The first four and the last of IPv4 are the VPC's.
type Subnet struct {
	ID         string
	IPv4, IPv6 netip.Prefix
	// VPCID and Zone are DefaultVPC and DefaultZone if they are "".
	VPCID, Zone string
	Tags        map[string]string
}

// Group is a security group.
type Group struct {
	ID, Name string
	// VPCID is DefaultVPC if it is "".
	VPCID string
	Tags  map[string]string
}

// The defaults of a Subnet, and the account and region in ARNs.
const (
	DefaultVPC    = "vpc-0a1b2c3d"
	DefaultZone   = "eu-central-1a"
	DefaultRegion = "eu-central-1"
	Account       = "123456789012"
)

// Type is an instance type.
type Type struct {
	Name string
	// Cards are the ENIs that each of its network cards takes.
	Cards []int
	// Interfaces is the type's limit of ENIs; 0 is the sum of Cards.
	Interfaces int
	// PerENI limits each family's addresses of an ENI, a prefix counts as one.
	PerENI int
	// EnaExpress says that it supports ENA Express.
	EnaExpress bool
}

func (t Type) limit() int {
	if t.Interfaces > 0 {
		return t.Interfaces
	}
	sum := 0
	for _, n := range t.Cards {
		sum += n
	}
	return sum
}

// Types returns the instance types that each Server has ("Maximum IP addresses per network interface" and "Network cards", user guide).
func Types() []Type {
	return []Type{
		{Name: "t3.micro", Cards: []int{2}, PerENI: 2},
		{Name: "t3.medium", Cards: []int{3}, PerENI: 6},
		{Name: "m5.large", Cards: []int{3}, PerENI: 10},
		{Name: "c5n.xlarge", Cards: []int{4}, PerENI: 15},
		{Name: "m5.4xlarge", Cards: []int{8}, PerENI: 30},
		{Name: "c6in.16xlarge", Cards: []int{15}, PerENI: 50, EnaExpress: true},
		{Name: "p4d.24xlarge", Cards: []int{15, 15, 15, 15}, PerENI: 50},
	}
}

func (s *Server) settle(cfg Config) {
	for _, t := range slices.Concat(Types(), cfg.Types) {
		s.types[t.Name] = t
	}
	for _, g := range cfg.Groups {
		if g.VPCID == "" {
			g.VPCID = DefaultVPC
		}
		s.groups[g.ID] = g
	}
	for _, n := range cfg.Subnets {
		if n.VPCID == "" {
			n.VPCID = DefaultVPC
		}
		if n.Zone == "" {
			n.Zone = DefaultZone
		}
		s.subnets[n.ID] = n
		if s.defaultGroup(n.VPCID) == "" {
			id := fmt.Sprintf("sg-%017x", 0xd0000+len(s.groups))
			s.groups[id] = Group{ID: id, Name: "default", VPCID: n.VPCID}
		}
	}
}

// SetNetwork replaces all subnets and groups, as Terraform does. ENIs of a subnet or group that goes must be gone, as EC2 asks for it.
func (s *Server) SetNetwork(subnets []Subnet, groups []Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.subnets)
	clear(s.groups)
	s.settle(Config{Subnets: subnets, Groups: groups})
}

// subnet returns a subnet; one that no Config names has only an id and the defaults.
func (s *Server) subnet(id string) Subnet {
	if n, ok := s.subnets[id]; ok {
		return n
	}
	return Subnet{ID: id, VPCID: DefaultVPC, Zone: DefaultZone}
}

func (s *Server) defaultGroup(vpc string) string {
	for _, g := range s.groups {
		if g.VPCID == vpc && g.Name == "default" {
			return g.ID
		}
	}
	return ""
}

// checkGroups checks the groups of an ENI of a VPC ("Quotas for security groups", VPC user guide; SecurityGroupsPerInterfaceLimitExceeded).
func (s *Server) checkGroups(ids []string, vpc string) error {
	for _, id := range ids {
		g, ok := s.groups[id]
		if !ok {
			return refuse("InvalidSecurityGroupID.NotFound", "The securityGroup ID '%s' does not exist", id)
		}
		if g.VPCID != vpc { // "if you specified two resources in different VPCs", errors-overview.html
			return refuse("InvalidParameter", "Security group %s and the subnet belong to different networks.", id)
		}
	}
	if len(ids) > 5 {
		return refuse("SecurityGroupsPerInterfaceLimitExceeded", "The maximum number of security groups per interface has been reached.")
	}
	return nil
}

func (s *Server) id(prefix string) string {
	s.made++
	return fmt.Sprintf("%s%017x", prefix, 0xa0000000000+s.made)
}

func (s *Server) mac() string {
	n := s.made
	return fmt.Sprintf("06:%02x:%02x:%02x:%02x:%02x", byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func (s *Server) arn(resource string) string {
	region := s.cfg.Region
	if region == "" {
		region = DefaultRegion
	}
	return "arn:aws:ec2:" + region + ":" + Account + ":" + resource
}
