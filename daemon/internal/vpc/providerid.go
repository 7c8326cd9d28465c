package vpc

import "regexp"

// providerID matches an EC2 Node's ID, such as aws:///us-east-1a/i-0a1b2c3d4e5f60718, like MapToAWSInstanceID of cloud-provider-aws
// (pkg/providers/v1/instances.go). It never changes (ValidateNodeUpdate in pkg/apis/core/validation of Kubernetes).
// Fargate and hybrid nodes have other forms.
var providerID = regexp.MustCompile(`^aws://.*/(i-[0-9a-f]{8,17})$`)

// InstanceOf returns the id of the EC2 instance that a Node's spec.providerID names, "" for none.
func InstanceOf(provider string) string {
	if m := providerID.FindStringSubmatch(provider); m != nil {
		return m[1]
	}
	return ""
}
