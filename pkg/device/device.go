// Package device holds the identities a network device is known by: PCI
// address, MAC address, ENI id, subnet id, resource name and interface name.
//
// Every type is a string in its one canonical spelling, obtained from the matching Parse function or from UnmarshalText
// (hence from JSON). The zero value of each means "not known" and is the only value that is not checked. All functions
// are pure and safe for concurrent use.
package device

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// ErrInvalid is wrapped by the error of every Parse function.
var ErrInvalid = errors.New("invalid value")

func invalid(kind, value, want string) error {
	return fmt.Errorf("%s %q: %w: want %s", kind, value, ErrInvalid, want)
}

// PCIAddress is a PCI function's address as the kernel names its folder in /sys/bus/pci/devices: domain (4 to 8
// hexadecimal digits), bus, device and function, for example "0000:00:07.0". Lower case.
type PCIAddress string

// ParsePCIAddress accepts the full form in either case. The short form without a domain ("00:07.0") is refused: it
// names a different device on a machine with several PCI domains.
func ParsePCIAddress(s string) (PCIAddress, error) {
	l := strings.ToLower(s)
	if !validPCI(l) {
		return "", invalid("PCI address", s, "domain:bus:device.function, such as 0000:00:07.0")
	}
	return PCIAddress(l), nil
}

func validPCI(s string) bool {
	domain, rest, _ := strings.Cut(s, ":")
	return len(domain) >= 4 && len(domain) <= 8 && only(domain, isHex) &&
		len(rest) == len("00:07.0") && rest[2] == ':' && rest[5] == '.' && only(rest[:2], isHex) &&
		(rest[3] == '0' || rest[3] == '1') && isHex(rest[4]) && rest[6] >= '0' && rest[6] <= '7'
}

// String returns the canonical spelling, or "" for the zero value.
func (a PCIAddress) String() string { return string(a) }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (a *PCIAddress) UnmarshalText(b []byte) error { return unmarshal(a, b, ParsePCIAddress) }

// MAC is a unicast EUI-48 address in lower-case colon form, as /sys/class/net/*/address shows it.
type MAC string

// ParseMAC accepts the forms of net.ParseMAC and refuses addresses that no interface can
// carry: group addresses, all zeroes and lengths other than six octets.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return "", invalid("MAC address", s, "six octets of a unicast address, such as 02:00:00:00:00:07")
	}
	return MAC(hw.String()), nil
}

// String returns the canonical spelling, or "" for the zero value.
func (m MAC) String() string { return string(m) }

// HardwareAddr returns the six octets, or nil for the zero value.
func (m MAC) HardwareAddr() net.HardwareAddr {
	hw, err := net.ParseMAC(string(m))
	if err != nil {
		return nil
	}
	return hw
}

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (m *MAC) UnmarshalText(b []byte) error { return unmarshal(m, b, ParseMAC) }

// ENIID is the id of an EC2 elastic network interface: "eni-" and 8 or 17 hexadecimal digits.
type ENIID string

// ParseENIID accepts EC2's own lower-case spelling only.
func ParseENIID(s string) (ENIID, error) {
	if !validID(s, "eni-") {
		return "", invalid("ENI id", s, "eni- and 8 or 17 hexadecimal digits, such as eni-0a1b2c3d4e5f60718")
	}
	return ENIID(s), nil
}

// String returns the id, or "" for the zero value.
func (e ENIID) String() string { return string(e) }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (e *ENIID) UnmarshalText(b []byte) error { return unmarshal(e, b, ParseENIID) }

// SubnetID is the id of a VPC subnet: "subnet-" and 8 or 17 hexadecimal digits.
type SubnetID string

// ParseSubnetID accepts EC2's own lower-case spelling only.
func ParseSubnetID(s string) (SubnetID, error) {
	if !validID(s, "subnet-") {
		return "", invalid("subnet id", s, "subnet- and 8 or 17 hexadecimal digits, such as subnet-0a1b2c3d4e5f60718")
	}
	return SubnetID(s), nil
}

// String returns the id, or "" for the zero value.
func (s SubnetID) String() string { return string(s) }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (s *SubnetID) UnmarshalText(b []byte) error { return unmarshal(s, b, ParseSubnetID) }

// ResourceName is a device plugin resource as Kubernetes names it: prefix/name, for example "intel.com/sriov_net".
type ResourceName string

// The prefix is a DNS subdomain and the name begins and ends alphanumeric (Kubernetes' rules for extended resources).
// Within, the name is narrower than Kubernetes allows: the SR-IOV network device plugin exits on a name with anything
// but letters, digits, underscores and, since v3.6.0, hyphens (ValidResourceName in its pkg/utils).
func validPrefix(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !enclosed(label, isLowerAlnum, "-") {
			return false
		}
	}
	return true
}

func validName(s string) bool { return len(s) <= 63 && enclosed(s, isAlnum, "_-") }

// maxResourceName bounds prefix/name, in octets: the device plugin listens on
// /var/lib/kubelet/plugins_registry/PREFIX_NAME.sock, and a socket's path has at
// most 107 (unix(7)). Kubernetes' own bound of 244 for the prefix lies beyond.
const maxResourceName = 107 - len("/var/lib/kubelet/plugins_registry/") - len(".sock")

// ParseResourceName accepts prefix/name of at most 68 octets, the name at most
// 63. Prefixes that Kubernetes keeps for itself are refused (IsExtendedResourceName
// in its pkg/apis/core/v1/helper): names that begin with "requests." or end in "kubernetes.io".
func ParseResourceName(s string) (ResourceName, error) {
	prefix, name, ok := strings.Cut(s, "/")
	switch {
	case !ok || !validPrefix(prefix) || !validName(name):
		return "", invalid("resource name", s, "prefix/name with letters, digits, underscores and hyphens in the name, such as intel.com/sriov_net")
	case len(s) > maxResourceName:
		return "", invalid("resource name", s, fmt.Sprintf("at most %d characters, for the device plugin's socket is named after it", maxResourceName))
	case strings.HasPrefix(prefix, "requests.") || strings.HasSuffix(prefix, "kubernetes.io"):
		return "", invalid("resource name", s, `a prefix that Kubernetes does not keep for itself: not "requests." first, nor "kubernetes.io" last`)
	}
	return ResourceName(s), nil
}

// String returns prefix/name, or "" for the zero value.
func (r ResourceName) String() string { return string(r) }

// Split returns the prefix and the name; both are "" for the zero value.
func (r ResourceName) Split() (prefix, name string) {
	prefix, name, _ = strings.Cut(string(r), "/")
	return prefix, name
}

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (r *ResourceName) UnmarshalText(b []byte) error { return unmarshal(r, b, ParseResourceName) }

// ParseInterfaceName checks a network interface's name by the kernel's rule (dev_valid_name in net/core/dev.c: 1 to 15
// octets, not "." or "..", no '/', ':' or white space) and returns it unchanged. '%' is refused as well: the kernel
// expands it to a free number.
func ParseInterfaceName(s string) (string, error) {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/:% \t\n\v\f\r\x00") {
		return "", invalid("interface name", s, "1 to 15 characters without '/', ':', '%' or white space")
	}
	return s, nil
}

func unmarshal[T ~string](dst *T, b []byte, parse func(string) (T, error)) error {
	if len(b) == 0 {
		*dst = ""
		return nil
	}
	v, err := parse(string(b))
	if err != nil {
		return err
	}
	*dst = v
	return nil
}

// The rules are written out: compiling them as regular expressions would take a tenth of the plugin's start-up.

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

func isLowerAlnum(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

func isAlnum(c byte) bool { return isLowerAlnum(c) || c >= 'A' && c <= 'Z' }

// only says whether all of s is of a class.
func only(s string, class func(byte) bool) bool {
	for i := range len(s) {
		if !class(s[i]) {
			return false
		}
	}
	return true
}

// enclosed says whether s begins and ends with a character of the class and has
// nothing but these and inner ones between.
func enclosed(s string, class func(byte) bool, inner string) bool {
	return s != "" && class(s[0]) && class(s[len(s)-1]) && only(s, func(c byte) bool { return class(c) || strings.IndexByte(inner, c) >= 0 })
}

// validID checks an EC2 id: a prefix and 8 or 17 hexadecimal digits.
func validID(s, prefix string) bool {
	digits, ok := strings.CutPrefix(s, prefix)
	return ok && (len(digits) == 8 || len(digits) == 17) && only(digits, isHex)
}
