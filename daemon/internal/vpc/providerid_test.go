package vpc

import "testing"

func TestInstanceOf(t *testing.T) {
	for provider, want := range map[string]string{
		"aws:///us-east-1a/i-0a1b2c3d4e5f60718":                               "i-0a1b2c3d4e5f60718",
		"aws:///us-east-1a/i-0a1b2c3d":                                        "i-0a1b2c3d",
		"aws:///us-east-1a/fargate-ip-192-168-1-1.us-east-1.compute.internal": "",
		"eks-hybrid:///us-west-2/my-cluster/mi-0a1b2c3d4e5f60718":             "",
		"gce://project/zone/i-0a1b2c3d":                                       "",
		"":                                                                    "",
		"aws:///us-east-1a/i-0A1B2C3D":                                        "",
		"kind://docker/kind/i-0a1b2c3d":                                       "",
		"aws://i-0a1b2c3d":                                                    "",
		"aws:///us-east-1a/x\ny/i-0a1b2c3d":                                   "",
	} {
		if got := InstanceOf(provider); got != want {
			t.Errorf("%q is of %q, want %q", provider, got, want)
		}
	}
}
