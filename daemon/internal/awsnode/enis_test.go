package awsnode

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// FuzzENI answers each key with one input line "key=value"; a comma in the value is a line feed.
func FuzzENI(f *testing.F) {
	f.Add("interface-id=eni-00000001\ndevice-number=1\nsubnet-id=subnet-00000001" +
		"\nsubnet-ipv4-cidr-block=10.0.1.0/24\nlocal-ipv4s=10.0.1.20,10.0.1.15\nipv4-prefix=10.0.1.32/28")
	f.Add("interface-id=eni-00000001\ndevice-number=0\nsubnet-id=subnet-00000001" +
		"\nsubnet-ipv6-cidr-blocks=2001:db8::/64,::/0\nipv6s=2001:db8::5,fe80::1%eth0\nnetwork-card=7")
	f.Add("interface-id=eni-00000001\ndevice-number=\nsubnet-id= ")
	f.Fuzz(func(t *testing.T, input string) {
		answers := map[string]string{}
		for line := range strings.Lines(input) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				answers[key] = strings.ReplaceAll(value, ",", "\n")
			}
		}
		const mac = device.MAC("02:00:00:00:00:01")
		e, err := readENI(mac, func(key string) (string, error) {
			value, ok := answers[strings.TrimPrefix(key, macsKey+mac.String()+"/")]
			if !ok {
				return "", errNoKey
			}
			return value, nil
		})
		if err != nil {
			if e != nil || !errors.Is(err, errNoKey) {
				t.Fatalf("readENI = %v, %v; want nil and errNoKey", e, err)
			}
			return
		}
		if e.Unreadable != nil {
			if e.MAC != mac || e.DeviceIndex != -1 || e.SubnetID != "" || e.Addresses != nil {
				t.Errorf("readENI says more than it knows: %+v", e)
			}
			return
		}
		if e.ID == "" || e.SubnetID == "" || e.MAC != mac || e.DeviceIndex < 0 || e.NetworkCard < 0 {
			t.Errorf("readENI lacks what every ENI has: %+v", e)
		}
		for _, p := range append([]netip.Prefix{e.SubnetCIDR}, e.Prefixes...) {
			if p.IsValid() && p != p.Masked() {
				t.Errorf("range %s has host bits", p)
			}
		}
		for _, a := range e.Addresses {
			if !a.IsValid() || !e.SubnetCIDR.IsValid() {
				t.Errorf("address %s in subnet %s", a, e.SubnetCIDR)
			}
		}
	})
}
