package fakeec2

import (
	"maps"
	"slices"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2/iam"
)

// need is a right that a call needs. Which resources and condition keys an action has: "Actions, resources, and condition keys for Amazon EC2",
// service authorization reference. For Modify, AWS' own policy for the VPC CNI needs the instance and the groups besides (docs/iam-policy.md there).
type need struct {
	action, resource string
	keys             map[string][]string
}

func lookNothing(_ *Server, c *call) error {
	c.needs = []need{{c.name, "*", nil}}
	return nil
}

func (s *Server) withTags(keys map[string][]string, tags map[string]string) map[string][]string {
	for k, v := range tags {
		keys["aws:ResourceTag/"+k], keys["ec2:ResourceTag/"+k] = []string{v}, []string{v}
	}
	return keys
}

func (s *Server) place(subnetID string) map[string][]string {
	n := s.subnet(subnetID)
	return map[string][]string{"ec2:Vpc": {s.arn("vpc/" + n.VPCID)}, "ec2:Subnet": {s.arn("subnet/" + n.ID)}, "ec2:AvailabilityZone": {n.Zone}}
}

func (s *Server) needENI(c *call, r *record) {
	keys := s.withTags(s.place(r.SubnetID), r.Tags)
	keys["ec2:NetworkInterfaceID"] = []string{r.ID}
	c.needs = append(c.needs, need{c.name, s.arn("network-interface/" + r.ID), keys})
}

func (s *Server) needInstance(c *call, i *instance) {
	keys := s.withTags(map[string][]string{"ec2:AvailabilityZone": {s.subnet(i.SubnetID).Zone}, "ec2:InstanceType": {i.Type}, "ec2:InstanceID": {i.ID}}, i.Tags)
	c.needs = append(c.needs, need{c.name, s.arn("instance/" + i.ID), keys})
}

func (s *Server) needGroups(c *call, ids []string) {
	for _, id := range ids {
		keys := s.withTags(map[string][]string{"ec2:Vpc": {s.arn("vpc/" + s.groups[id].VPCID)}, "ec2:SecurityGroupID": {id}}, s.groups[id].Tags)
		c.needs = append(c.needs, need{c.name, s.arn("security-group/" + id), keys})
	}
}

func requested(keys map[string][]string, tags map[string]string) map[string][]string {
	for k, v := range tags {
		keys["aws:RequestTag/"+k] = []string{v}
	}
	if len(tags) > 0 {
		keys["aws:TagKeys"] = slices.Sorted(maps.Keys(tags))
	}
	return keys
}

func lookENI(s *Server, c *call) (err error) {
	if c.r, err = s.find(c.peek("NetworkInterfaceId")); err == nil {
		s.needENI(c, c.r)
	} else if s.cfg.AbsentForbidden {
		return s.absent(c, err, "network-interface/"+c.peek("NetworkInterfaceId"))
	}
	return err
}

// absent returns the error for a resource that does not exist: its tags do not either, so a policy that asks for one does not permit the call.
// For attachments EC2 was seen to answer so: github.com/hashicorp/terraform-provider-aws/pull/46211.
func (s *Server) absent(c *call, err error, resources ...string) error {
	for _, r := range resources {
		c.needs = append(c.needs, need{c.name, s.arn(r), nil})
	}
	if denied := s.authorize(c); denied != nil && s.cfg.Policy != nil {
		return denied
	}
	return err
}

// lookCreate: subnet, groups, and the new ENI; with tags also CreateTags on it, which has ec2:CreateAction ("Grant permission to tag resources during
// creation", user guide). Request tags belong to the new ENI only.
func lookCreate(s *Server, c *call) error {
	id := c.peek("SubnetId")
	n, ok := s.subnets[id]
	if !ok {
		return refuse("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
	}
	groups := c.peekList("SecurityGroupId")
	if err := s.checkGroups(groups, n.VPCID); err != nil {
		return err
	}
	tags, err := specified(maps.Clone(c.params))
	if err != nil {
		return err
	}
	keys := s.withTags(s.place(id), n.Tags)
	keys["ec2:SubnetID"] = []string{id}
	c.needs = append(c.needs, need{c.name, s.arn("subnet/" + id), keys}, need{c.name, s.arn("network-interface/*"), requested(s.place(id), tags)})
	s.needGroups(c, groups)
	if len(tags) > 0 {
		keys := requested(map[string][]string{"ec2:CreateAction": {c.name}}, tags)
		c.needs = append(c.needs, need{"CreateTags", s.arn("network-interface/*"), keys})
	}
	return nil
}

func lookAttach(s *Server, c *call) (err error) {
	if err := lookENI(s, c); err != nil {
		return err
	}
	if c.i, err = s.findInstance(c.peek("InstanceId")); err == nil {
		s.needInstance(c, c.i)
	}
	return err
}

func lookDetach(s *Server, c *call) (err error) {
	if c.r, err = s.findAttachment(c.peek("AttachmentId")); err != nil {
		return s.absent(c, err, "network-interface/*", "instance/*")
	}
	s.needENI(c, c.r)
	if c.i = s.instances[c.r.Instance]; c.i != nil {
		s.needInstance(c, c.i)
	}
	return nil
}

func lookModify(s *Server, c *call) error {
	if err := lookENI(s, c); err != nil {
		return err
	}
	groups := c.peekList("SecurityGroupId")
	if err := s.checkGroups(groups, s.subnet(c.r.SubnetID).VPCID); err != nil {
		return err
	}
	s.needGroups(c, groups)
	if c.i = s.instances[c.r.Instance]; c.i != nil && c.has("Attachment.AttachmentId") {
		s.needInstance(c, c.i)
	}
	return nil
}

func lookTags(s *Server, c *call) error {
	tags, err := maps.Clone(c.params).tags("Tag")
	if err != nil {
		return err
	}
	for _, id := range c.peekList("ResourceId") {
		r, err := s.find(id)
		if err != nil {
			return err
		}
		if c.r == nil {
			c.r = r
		}
		c.needs = append(c.needs, need{c.name, s.arn("network-interface/" + id), requested(s.withTags(s.place(r.SubnetID), r.Tags), tags)})
	}
	return nil
}

// authorize refuses a call that lacks one of its rights.
func (s *Server) authorize(c *call) error {
	var on ENI
	if c.r != nil {
		on = c.r.ENI
	}
	if s.cfg.May != nil && !s.cfg.May(c.name, on) {
		return refuse("UnauthorizedOperation", "You are not authorized to perform this operation.")
	}
	if s.cfg.Policy == nil {
		return nil
	}
	for _, n := range c.needs {
		keys := map[string][]string{}
		maps.Copy(keys, n.keys)
		keys["ec2:Region"], keys["aws:RequestedRegion"] = []string{DefaultRegion}, []string{DefaultRegion}
		if s.cfg.Region != "" {
			keys["ec2:Region"], keys["aws:RequestedRegion"] = []string{s.cfg.Region}, []string{s.cfg.Region}
		}
		if why := s.cfg.Policy.Decide(iam.Request{Action: "ec2:" + n.action, Resource: n.resource, Keys: keys}); why != iam.Allowed {
			s.denied = append(s.denied, n.action+" on "+n.resource)
			return refuse("UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:sts::%s:assumed-role/fake/fake is not "+
				"authorized to perform: ec2:%s on resource: %s %s", Account, n.action, n.resource, why)
		}
	}
	return nil
}
