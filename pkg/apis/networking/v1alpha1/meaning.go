package v1alpha1

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Values of absent fields of the spec.
const (
	DefaultDeviceIndex = 1
	DefaultDPDKDriver  = "vfio-pci"
	// DefaultResourceName is advertised for a device that is to be advertised,
	// with a kernel or a userspace driver, under no name in particular.
	DefaultResourceName device.ResourceName = "intel.com/sriov_net"
)

// AnnotationAllowedNamespaces lists the namespaces whose pods may use the devices of a NodeENI; see AllowedNamespaces.
const AnnotationAllowedNamespaces = GroupName + "/allowed-namespaces"

// Defaulted returns o with every absent field that has a default set to it. The API server does the same to stored
// objects (but for dpdkDriver, to which the CRD gives no default); manifests in a folder need it done. A device index
// below zero counts as absent. The result shares maps and slices with o.
func (o NodeENI) Defaulted() NodeENI {
	if o.Spec.DeviceIndex <= 0 {
		o.Spec.DeviceIndex = DefaultDeviceIndex
	}
	if o.Spec.DeleteOnTermination == nil {
		o.Spec.DeleteOnTermination = new(true)
	}
	if o.Spec.DPDKDriver == "" {
		o.Spec.DPDKDriver = DefaultDPDKDriver
	}
	return o
}

// Case is how a node treats the devices of a NodeENI.
type Case int

// The cases, numbered as people speak of them. The zero value is none.
const (
	// Case1Kernel brings the link up with its MTU, and does not advertise it.
	Case1Kernel Case = 1
	// Case2SRIOV leaves the device with its kernel driver and advertises it.
	Case2SRIOV Case = 2
	// Case3DPDK binds the device to the userspace driver and advertises it.
	Case3DPDK Case = 3
)

// String returns kernel, sriov or dpdk.
func (c Case) String() string {
	switch c {
	case Case1Kernel:
		return "kernel"
	case Case2SRIOV:
		return "sriov"
	case Case3DPDK:
		return "dpdk"
	default:
		return fmt.Sprintf("Case(%d)", int(c))
	}
}

// Case derives the case from which fields are given. Their values are not
// looked at: an invalid resource name is a fault of case 2, not a case 1.
func (s NodeENISpec) Case() Case {
	switch {
	case s.EnableDPDK:
		return Case3DPDK
	case s.DPDKResourceName != "" || s.DPDKPCIAddress != "":
		return Case2SRIOV
	default:
		return Case1Kernel
	}
}

// ResourceName returns the name to advertise: "" in case 1, DefaultResourceName where the spec asks for none in
// particular. The error wraps device.ErrInvalid; such a name must not be advertised, and no other in its place.
func (s NodeENISpec) ResourceName() (device.ResourceName, error) {
	if s.Case() == Case1Kernel {
		return "", nil
	}
	if s.DPDKResourceName == "" {
		return DefaultResourceName, nil
	}
	name, err := device.ParseResourceName(s.DPDKResourceName)
	if err != nil {
		return "", fmt.Errorf("read spec.dpdkResourceName: %w", err)
	}
	return name, nil
}

// A namespace's name is a DNS label (RFC 1123), which also bounds it at 63 octets.
var namespacePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// AllowedNamespaces reads AnnotationAllowedNamespaces: names separated by commas or white space, returned sorted and
// once each. Nil, for an absent annotation, allows every namespace. Anything else allows only what it lists, so an
// annotation without a valid name gives an empty list that is not nil.
//
// The error wraps device.ErrInvalid and names each faulty value; the list then
// still holds the valid ones, since leaving out a name only forbids more.
func (o NodeENI) AllowedNamespaces() ([]string, error) {
	value, ok := o.Annotations[AnnotationAllowedNamespaces]
	if !ok {
		return nil, nil
	}
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
	if len(words) == 0 {
		return []string{}, fmt.Errorf("read annotation %s %q: %w: no namespace is listed, so none is allowed; remove the annotation to allow all",
			AnnotationAllowedNamespaces, value, device.ErrInvalid)
	}
	slices.Sort(words)
	names := []string{}
	var errs []error
	for _, w := range slices.Compact(words) {
		if namespacePattern.MatchString(w) {
			names = append(names, w)
			continue
		}
		errs = append(errs, fmt.Errorf("read annotation %s: namespace %q: %w: want at most 63 lower-case letters, digits and inner hyphens",
			AnnotationAllowedNamespaces, w, device.ErrInvalid))
	}
	return names, errors.Join(errs...)
}
