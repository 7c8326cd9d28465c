package slots

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Annotations of a NodeENI.
const (
	AnnotationNetworkCard        = v1alpha1.GroupName + "/network-card"
	AnnotationIPv6Addresses      = v1alpha1.GroupName + "/ipv6-address-count"
	AnnotationSecondaryAddresses = v1alpha1.GroupName + "/secondary-address-count"
	AnnotationPrefixes           = v1alpha1.GroupName + "/prefix-count"
	AnnotationSourceDestCheck    = v1alpha1.GroupName + "/source-dest-check"
	AnnotationTracking           = v1alpha1.GroupName + "/connection-tracking"
	AnnotationEnaExpress         = v1alpha1.GroupName + "/ena-express"
	AnnotationTags               = v1alpha1.GroupName + "/tags"
	// AnnotationAbandon with the value "true" lets a deleted NodeENI go although its ENIs are still there.
	AnnotationAbandon = v1alpha1.GroupName + "/abandon"
)

// Limits of EC2.
const (
	maxCard        = 63
	maxCount       = 255
	maxDescription = 255
	maxTags        = 50
	maxTagKey      = 128
	maxTagValue    = 256
)

// Abandoned reports whether a person has told the controller to leave the ENIs of a NodeENI behind.
func Abandoned(o v1alpha1.NodeENI) bool { return o.Annotations[AnnotationAbandon] == "true" }

// readOptions fills in options, card and anyCard.
func (d *declaration) readOptions() []error {
	s := d.Spec
	d.options = Options{
		DeleteOnTermination: *s.DeleteOnTermination, Description: s.Description, MTU: s.MTU, EnableDPDK: s.EnableDPDK, DPDKDriver: s.DPDKDriver,
		DPDKPCIAddress: s.DPDKPCIAddress, DPDKResourceName: s.DPDKResourceName,
	}
	if text, ok := d.Annotations[v1alpha1.AnnotationAllowedNamespaces]; ok {
		d.options.AllowedNamespaces = &text
	}
	var errs []error
	if n := utf8.RuneCountInString(s.Description); n > maxDescription {
		errs = append(errs, fmt.Errorf("spec.description has %d characters: EC2 takes at most %d: shorten it", n, maxDescription))
	}
	o := &d.options
	for _, a := range []struct {
		name string
		read func(string) error
	}{
		{AnnotationNetworkCard, d.readCard},
		{AnnotationIPv6Addresses, number(&o.IPv6Addresses, 0, maxCount)},
		{AnnotationSecondaryAddresses, number(&o.SecondaryAddresses, 0, maxCount)},
		{AnnotationPrefixes, number(&o.Prefixes, 0, maxCount)},
		{AnnotationSourceDestCheck, boolean(&o.SourceDestCheck)},
		{AnnotationTracking, func(text string) error { return readTracking(&o.Tracking, text) }},
		{AnnotationEnaExpress, boolean(&o.EnaExpress)},
		{AnnotationTags, func(text string) error { return readTags(o, text) }},
	} {
		if text, ok := d.Annotations[a.name]; ok {
			if err := a.read(text); err != nil {
				errs = append(errs, fmt.Errorf("annotation %s %q: %w", a.name, text, err))
			}
		}
	}
	if o.Prefixes > 0 && o.SecondaryAddresses > 0 {
		errs = append(errs, fmt.Errorf("annotations %s %d and %s %d: EC2 gives an ENI the one or the other: remove one",
			AnnotationPrefixes, o.Prefixes, AnnotationSecondaryAddresses, o.SecondaryAddresses))
	}
	return errs
}

func (d *declaration) readCard(text string) error {
	if text == "auto" {
		d.anyCard = true
		return nil
	}
	if err := number(&d.card, 0, maxCard)(text); err != nil {
		return errors.New("want auto or the index of a network card, such as 1")
	}
	return nil
}

func number(to *int, least, most int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most || strconv.Itoa(n) != text {
			return fmt.Errorf("want a whole number from %d to %d", least, most)
		}
		*to = n
		return nil
	}
}

func boolean(to **bool) func(string) error {
	return func(text string) error {
		if text != "true" && text != "false" {
			return errors.New("want true or false")
		}
		*to = new(text == "true")
		return nil
	}
}

// readTracking reads tcp-established=350,udp-stream=60,udp-timeout=30, each part once at most, within EC2's bounds.
func readTracking(to *vpc.Tracking, text string) error {
	t := vpc.Tracking{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		field, least, most := &t.TCPEstablished, 60, 432000
		switch key {
		case "tcp-established":
		case "udp-stream":
			field, least, most = &t.UDPStream, 60, 180
		case "udp-timeout":
			field, least, most = &t.UDPTimeout, 30, 60
		default:
			return fmt.Errorf("part %q: want tcp-established=SECONDS, udp-stream=SECONDS or udp-timeout=SECONDS, separated by commas", part)
		}
		if *field != 0 {
			return fmt.Errorf("%s is given twice: remove one", key)
		}
		if err := number(field, least, most)(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	*to = t
	return nil
}

// readTags reads key=value,key=value.
func readTags(o *Options, text string) error {
	tags := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		_, twice := tags[key]
		switch {
		case !ok || key == "":
			return fmt.Errorf("part %q: want KEY=VALUE, separated by commas", part)
		case twice:
			return fmt.Errorf("key %s is given twice: remove one", key)
		case reserved(key):
			return fmt.Errorf("key %s is AWS's or the controller's: choose another", key)
		case utf8.RuneCountInString(key) > maxTagKey || utf8.RuneCountInString(value) > maxTagValue:
			return fmt.Errorf("key %s: EC2 takes at most %d characters for a key and %d for a value: shorten it", key, maxTagKey, maxTagValue)
		}
		tags[key] = value
	}
	if n := maxTags - len(ownTags); len(tags) > n {
		return fmt.Errorf("%d tags: EC2 takes %d, of which the controller needs %d: remove some", len(tags), maxTags, len(ownTags))
	}
	o.Tags = tags
	return nil
}
