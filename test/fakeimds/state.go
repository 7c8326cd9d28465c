package fakeimds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// State is an instance as a person declares it; its JSON form is the file of the stand-alone server.
type State struct {
	InstanceID string `json:"instanceID"`
	// Region is placement/region.
	Region string `json:"region"`
	// RoleKey is the access key of the instance's role; "" is no role.
	RoleKey string `json:"roleKey"`
	ENIs    []ENI  `json:"enis"`
}

// ENI is one interface. Values are returned unchecked; an empty one has no key.
type ENI struct {
	ID             string   `json:"id"`
	MAC            string   `json:"mac"`
	Primary        bool     `json:"primary"`
	DeviceIndex    int      `json:"deviceIndex"`
	NetworkCard    int      `json:"networkCard"`
	SubnetID       string   `json:"subnetID"`
	SubnetIPv4CIDR string   `json:"subnetIPv4CIDR"`
	VPCIPv4CIDRs   []string `json:"vpcIPv4CIDRs"`
	IPv4s          []string `json:"ipv4s"`
	IPv4Prefixes   []string `json:"ipv4Prefixes"`
	SubnetIPv6CIDR []string `json:"subnetIPv6CIDRs"`
	IPv6s          []string `json:"ipv6s"`
	IPv6Prefixes   []string `json:"ipv6Prefixes"`

	// The lags count from Attach, Attach and Detach: until the ENI is listed, until its device-number is
	// right (0 before), and until it has left the list.
	AppearsAfter Duration `json:"appearsAfter"`
	IndexAfter   Duration `json:"indexAfter"`
	StaleFor     Duration `json:"staleFor"`
}

// Duration is a time.Duration with the JSON form "1.5s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

type attachment struct {
	ENI
	attached, detached time.Time // detached is zero while it is attached
}

// Attach adds an ENI, or replaces the one with the same MAC.
func (s *Server) Attach(e ENI) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attach(e)
}

func (s *Server) attach(e ENI) {
	s.enis = slices.DeleteFunc(s.enis, func(a *attachment) bool { return a.MAC == e.MAC })
	s.enis = append(s.enis, &attachment{ENI: e, attached: s.now()})
}

// Detach removes the ENI with this MAC, if it is attached; it stays in the list for its StaleFor.
func (s *Server) Detach(mac string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detach(mac)
}

func (s *Server) detach(mac string) {
	for _, a := range s.enis {
		if a.MAC == mac && a.detached.IsZero() {
			a.detached = s.now()
		}
	}
}

// Apply detaches the ENIs that st lacks and attaches new ones. Others get st's values and keep their attachment time.
func (s *Server) Apply(st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instance, s.region, s.roleKey = st.InstanceID, st.Region, st.RoleKey
	for _, a := range s.enis {
		if !slices.ContainsFunc(st.ENIs, func(e ENI) bool { return e.MAC == a.MAC }) {
			s.detach(a.MAC)
		}
	}
	for _, e := range st.ENIs {
		i := slices.IndexFunc(s.enis, func(a *attachment) bool { return a.MAC == e.MAC && a.detached.IsZero() })
		if i < 0 {
			s.attach(e)
		} else {
			s.enis[i].ENI = e
		}
	}
}

type answer int

const (
	unknown answer = iota // not modelled
	absent                // modelled, and not there now
	present
)

const (
	dataRoot = "meta-data/"
	macsPath = dataRoot + "network/interfaces/macs"
	rolePath = dataRoot + "iam/security-credentials/"
	roleName = "node"
)

// value returns the value of a path below /latest/. s.mu is held.
func (s *Server) value(path string) (string, answer) {
	switch path {
	case dataRoot + "instance-id":
		return nonEmpty(s.instance)
	case dataRoot + "placement/region":
		return nonEmpty(s.region)
	case rolePath:
		if s.roleKey == "" {
			return "", absent
		}
		return roleName, present
	case rolePath + roleName:
		if s.roleKey == "" {
			return "", absent
		}
		expires := s.now().Add(6 * time.Hour).UTC().Format(time.RFC3339)
		return fmt.Sprintf(`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":"secret","Token":"token","Expiration":%q}`, s.roleKey, expires),
			present
	case dataRoot + "mac":
		for _, a := range s.enis {
			if a.Primary {
				return nonEmpty(a.MAC)
			}
		}
		return "", absent
	case macsPath, macsPath + "/":
		var macs []string
		for _, a := range s.enis {
			if s.listed(a) {
				macs = append(macs, a.MAC+"/")
			}
		}
		slices.Sort(macs) // not in order of index
		return strings.Join(macs, "\n"), present
	}
	mac, key, ok := strings.Cut(strings.TrimPrefix(path, macsPath+"/"), "/")
	if !ok || !strings.HasPrefix(path, macsPath+"/") || key != "" && !slices.Contains(interfaceKeys(), key) {
		return "", unknown
	}
	for _, a := range s.enis {
		if a.MAC == mac && s.listed(a) {
			return s.interfaceValue(a, key)
		}
	}
	return "", absent
}

// listed says whether the service lists an ENI, rightly or not.
func (s *Server) listed(a *attachment) bool {
	now := s.now()
	return !now.Before(a.attached.Add(time.Duration(a.AppearsAfter))) &&
		(a.detached.IsZero() || now.Before(a.detached.Add(time.Duration(a.StaleFor))))
}

func interfaceKeys() []string {
	return []string{
		"device-number", "interface-id", "ipv4-prefix", "ipv6-prefix", "ipv6s", "local-ipv4s", "mac",
		"network-card", "network-card-index", "subnet-id", "subnet-ipv4-cidr-block", "subnet-ipv6-cidr-blocks", "vpc-ipv4-cidr-blocks",
	}
}

// interfaceValue answers one key of an ENI; "" is the list of its keys.
func (s *Server) interfaceValue(a *attachment, key string) (string, answer) {
	switch key {
	case "":
		var keys []string
		for _, k := range interfaceKeys() {
			if _, ok := s.interfaceValue(a, k); ok == present {
				keys = append(keys, k)
			}
		}
		return strings.Join(keys, "\n"), present
	case "device-number":
		if s.now().Before(a.attached.Add(time.Duration(a.IndexAfter))) {
			return "0", present
		}
		return strconv.Itoa(a.DeviceIndex), present
	case "network-card": // only instance types with several cards have it
		if a.NetworkCard == 0 {
			return "", absent
		}
		return strconv.Itoa(a.NetworkCard), present
	case "network-card-index": // another name for it, in AWS' own mock
		return "", absent
	case "interface-id":
		return nonEmpty(a.ID)
	case "mac":
		return nonEmpty(a.MAC)
	case "subnet-id":
		return nonEmpty(a.SubnetID)
	case "subnet-ipv4-cidr-block":
		return nonEmpty(a.SubnetIPv4CIDR)
	case "vpc-ipv4-cidr-blocks":
		return nonEmpty(a.VPCIPv4CIDRs...)
	case "local-ipv4s":
		return nonEmpty(a.IPv4s...)
	case "ipv4-prefix":
		return nonEmpty(a.IPv4Prefixes...)
	case "subnet-ipv6-cidr-blocks":
		return nonEmpty(a.SubnetIPv6CIDR...)
	case "ipv6s":
		return nonEmpty(a.IPv6s...)
	case "ipv6-prefix":
		return nonEmpty(a.IPv6Prefixes...)
	default:
		return "", unknown
	}
}

// nonEmpty joins lines as the service does: no line feed after the last.
func nonEmpty(lines ...string) (string, answer) {
	if v := strings.Join(lines, "\n"); v != "" {
		return v, present
	}
	return "", absent
}
