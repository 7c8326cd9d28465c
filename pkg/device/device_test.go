package device

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
)

type parser func(string) (string, error)

func wrap[T ~string](parse func(string) (T, error)) parser {
	return func(s string) (string, error) {
		v, err := parse(s)
		return string(v), err
	}
}

var parsed = map[string]struct {
	parse parser
	good  map[string]string
	bad   []string
}{
	"pci": {
		wrap(ParsePCIAddress),
		map[string]string{"0000:00:07.0": "0000:00:07.0", "0000:AF:1F.7": "0000:af:1f.7", "10000:e1:00.0": "10000:e1:00.0"},
		[]string{"", "00:07.0", "0000:00:20.0", "0000:00:07.8", "0000:00:07", " 0000:00:07.0", "0000:00:07.0\n", "../0000:00:07.0", "000000000:00:07.0"},
	},
	"mac": {
		wrap(ParseMAC),
		map[string]string{"02:AB:00:00:00:01": "02:ab:00:00:00:01", "02-ab-00-00-00-01": "02:ab:00:00:00:01"},
		[]string{"", "01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00", "02:00:00:00:00:00:00:01"},
	},
	"eni": {
		wrap(ParseENIID),
		map[string]string{"eni-0a1b2c3d4e5f60718": "eni-0a1b2c3d4e5f60718", "eni-1a2b3c4d": "eni-1a2b3c4d"},
		[]string{"", "eni-", "eni-0A1B2C3D", "eni-xyz12345", "eni-0a1b2c3d4e5f6071", "subnet-1a2b3c4d"},
	},
	"subnet": {
		wrap(ParseSubnetID),
		map[string]string{"subnet-0a1b2c3d4e5f60718": "subnet-0a1b2c3d4e5f60718"},
		[]string{"", "subnet-", "eni-1a2b3c4d"},
	},
	"resource": {
		wrap(ParseResourceName),
		map[string]string{
			"intel.com/sriov_net": "intel.com/sriov_net", "a/b": "a/b", "requests/a": "requests/a", "intel.com/eni-a": "intel.com/eni-a",
			"a/b-_c": "a/b-_c", "io.kubernetes/a": "io.kubernetes/a",
			"a/" + strings.Repeat("x", 63):   "a/" + strings.Repeat("x", 63),
			strings.Repeat("p", 64) + "/abc": strings.Repeat("p", 64) + "/abc", // 68 octets
		},
		[]string{
			"", "intel.com", "intel.com/", "/x", "intel.com/a.b", "intel.com/-a", "intel.com/a-", "Intel.com/x", "a/b/c",
			"intel.com/_x", "intel.com/x_", "intel..com/x", "-intel.com/x",
			"a/" + strings.Repeat("x", 64), strings.Repeat("p", 64) + "/abcd", strings.Repeat("p", 254) + "/a",
			"requests.intel.com/a", "kubernetes.io/a", "node.kubernetes.io/a", "xkubernetes.io/a",
		},
	},
	"interface": {
		wrap(ParseInterfaceName),
		map[string]string{"eth0": "eth0", "net-1.5@x": "net-1.5@x"},
		[]string{"", ".", "..", "a b", "a/b", "a:b", "eth%d", "sixteen-letters-", "a\x00"},
	},
}

func TestParse(t *testing.T) {
	for name, tt := range parsed {
		t.Run(name, func(t *testing.T) {
			for in, want := range tt.good {
				if got, err := tt.parse(in); err != nil || got != want {
					t.Errorf("parse(%q) = %q, %v; want %q", in, got, err, want)
				}
			}
			for _, in := range tt.bad {
				got, err := tt.parse(in)
				if !errors.Is(err, ErrInvalid) || got != "" {
					t.Errorf("parse(%q) = %q, %v; want ErrInvalid", in, got, err)
				} else if !strings.Contains(err.Error(), "want ") {
					t.Errorf("parse(%q): error %q does not say what is wanted", in, err)
				}
			}
		})
	}
}

func TestJSON(t *testing.T) {
	type row struct {
		PCI      PCIAddress   `json:"pci,omitempty"`
		MAC      MAC          `json:"mac,omitempty"`
		ENI      ENIID        `json:"eni,omitempty"`
		Subnet   SubnetID     `json:"subnet,omitempty"`
		Resource ResourceName `json:"resource,omitempty"`
	}
	in := `{"pci":"0000:00:07.0","mac":"02:00:00:00:00:07","eni":"eni-0a1b2c3d4e5f60718","subnet":"subnet-1a2b3c4d","resource":"intel.com/a"}`
	var r row
	if err := json.Unmarshal([]byte(in), &r); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(r)
	if err != nil || string(out) != in {
		t.Fatalf("Marshal = %s, %v; want %s", out, err, in)
	}
	if err := json.Unmarshal([]byte(`{"pci":"","mac":""}`), &r); err != nil || r.PCI != "" || r.MAC != "" {
		t.Fatalf("empty text: %+v, %v; want zero values", r, err)
	}
	for _, bad := range []string{`{"pci":"x"}`, `{"mac":"x"}`, `{"eni":"x"}`, `{"subnet":"x"}`, `{"resource":"x"}`} {
		if err := json.Unmarshal([]byte(bad), &r); !errors.Is(err, ErrInvalid) {
			t.Errorf("Unmarshal(%s) = %v; want ErrInvalid", bad, err)
		}
	}
}

func TestHardwareAddr(t *testing.T) {
	if got := MAC("").HardwareAddr(); got != nil {
		t.Errorf("zero MAC gives %v; want nil", got)
	}
	if got := MAC("02:00:00:00:00:07").HardwareAddr().String(); got != "02:00:00:00:00:07" {
		t.Errorf("HardwareAddr = %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0000:00:07.0", "02:00:00:00:00:07", "eni-1a2b3c4d", "subnet-1a2b3c4d", "intel.com/sriov_net", "eth0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(kind, once string, err error, again func(string) (string, error)) {
			if err != nil {
				return
			}
			twice, err := again(once)
			if err != nil || twice != once {
				t.Errorf("%s: %q parses to %q, which parses to %q, %v", kind, s, once, twice, err)
			}
		}
		p, err := ParsePCIAddress(s)
		check("pci", p.String(), err, func(s string) (string, error) { v, err := ParsePCIAddress(s); return v.String(), err })
		m, err := ParseMAC(s)
		check("mac", m.String(), err, func(s string) (string, error) { v, err := ParseMAC(s); return v.String(), err })
		r, err := ParseResourceName(s)
		check("resource", r.String(), err, func(s string) (string, error) { v, err := ParseResourceName(s); return v.String(), err })
		if prefix, name := r.Split(); err == nil && prefix+"/"+name != s {
			t.Errorf("Split(%q) = %q, %q", s, prefix, name)
		}
		n, err := ParseInterfaceName(s)
		check("interface", n, err, ParseInterfaceName)
		e, err := ParseENIID(s)
		check("eni", e.String(), err, func(s string) (string, error) { v, err := ParseENIID(s); return v.String(), err })
		sn, err := ParseSubnetID(s)
		check("subnet", sn.String(), err, func(s string) (string, error) { v, err := ParseSubnetID(s); return v.String(), err })
	})
}

// The rules once more, as regular expressions.
var (
	pciPattern      = regexp.MustCompile(`^([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$`)
	eniPattern      = regexp.MustCompile(`^eni-([0-9a-f]{8}|[0-9a-f]{17})$`)
	subnetPattern   = regexp.MustCompile(`^subnet-([0-9a-f]{8}|[0-9a-f]{17})$`)
	resourcePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$`)
)

func FuzzRules(f *testing.F) {
	for _, s := range []string{"0000:00:07.0", "10000:e1:1f.7", "0000:00:20.0", "eni-1a2b3c4d", "subnet-0a1b2c3d4e5f60718",
		"intel.com/sriov_net", "a.b/_", "a..b/c", "-/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for rule, same := range map[string]bool{
			"pci":    validPCI(s) == pciPattern.MatchString(s),
			"eni":    validID(s, "eni-") == eniPattern.MatchString(s),
			"subnet": validID(s, "subnet-") == subnetPattern.MatchString(s),
		} {
			if !same {
				t.Errorf("%s: %q is judged differently", rule, s)
			}
		}
		prefix, name, ok := strings.Cut(s, "/")
		if got, want := ok && validPrefix(prefix) && enclosed(name, isAlnum, "_-"), resourcePattern.MatchString(s); got != want {
			t.Errorf("resource: %q: %v, want %v", s, got, want)
		}
	})
}

// TestClasses: the first and the last character of each class, and their neighbours in ASCII.
func TestClasses(t *testing.T) {
	for name, class := range map[string]struct {
		of  func(byte) bool
		all string
	}{
		"hexadecimal":      {isHex, "0123456789abcdef"},
		"lower-case alnum": {isLowerAlnum, "0123456789abcdefghijklmnopqrstuvwxyz"},
		"alphanumeric":     {isAlnum, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"},
	} {
		for c := range byte(128) {
			if got, want := class.of(c), strings.IndexByte(class.all, c) >= 0; got != want {
				t.Errorf("%q is %s: %v, want %v", c, name, got, want)
			}
		}
	}
}

// TestLengths: the longest values that are accepted, and the shortest that are too long.
func TestLengths(t *testing.T) {
	for name, tt := range map[string]struct {
		parse func(int) error
		most  int
	}{
		"PCI domain":     {func(n int) error { _, err := ParsePCIAddress(strings.Repeat("0", n) + ":00:07.0"); return err }, 8},
		"interface name": {func(n int) error { _, err := ParseInterfaceName(strings.Repeat("e", n)); return err }, 15},
	} {
		if tt.parse(tt.most) != nil || tt.parse(tt.most+1) == nil {
			t.Errorf("%s: of %d characters %v, of one more %v; want only the second refused", name, tt.most, tt.parse(tt.most), tt.parse(tt.most+1))
		}
	}
}
