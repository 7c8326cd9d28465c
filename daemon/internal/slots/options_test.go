package slots

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// manyTags are n of them.
func manyTags(n int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf("k%d=v", i))
	}
	return strings.Join(parts, ",")
}

func TestOptions(t *testing.T) {
	base := Options{DeleteOnTermination: true, DPDKDriver: "vfio-pci"}
	with := func(change func(*Options)) Options {
		o := base
		change(&o)
		return o
	}
	for _, tt := range []struct {
		annotation, text string
		want             Options
		card             int
		any              bool
		says             string // in the fault
	}{
		{annotation: AnnotationNetworkCard, text: "auto", want: base, any: true},
		{annotation: AnnotationNetworkCard, text: "0", want: base},
		{annotation: AnnotationNetworkCard, text: "63", want: base, card: 63},
		{annotation: AnnotationNetworkCard, text: "64", says: "auto or the index"},
		{annotation: AnnotationNetworkCard, text: "01", says: "auto or the index"},
		{annotation: AnnotationNetworkCard, text: "-1", says: "auto or the index"},
		{annotation: AnnotationIPv6Addresses, text: "3", want: with(func(o *Options) { o.IPv6Addresses = 3 })},
		{annotation: AnnotationIPv6Addresses, text: "", says: "from 0 to 255"},
		{annotation: AnnotationSecondaryAddresses, text: "255", want: with(func(o *Options) { o.SecondaryAddresses = 255 })},
		{annotation: AnnotationSecondaryAddresses, text: "256", says: "from 0 to 255"},
		{annotation: AnnotationPrefixes, text: "2", want: with(func(o *Options) { o.Prefixes = 2 })},
		{annotation: AnnotationPrefixes, text: "+2", says: "from 0 to 255"},
		{annotation: AnnotationSourceDestCheck, text: "false", want: with(func(o *Options) { o.SourceDestCheck = new(false) })},
		{annotation: AnnotationSourceDestCheck, text: "true", want: with(func(o *Options) { o.SourceDestCheck = new(true) })},
		{annotation: AnnotationSourceDestCheck, text: "False", says: "true or false"},
		{annotation: AnnotationEnaExpress, text: "true", want: with(func(o *Options) { o.EnaExpress = new(true) })},
		{annotation: AnnotationEnaExpress, text: "1", says: "true or false"},
		{annotation: AnnotationTracking, text: "tcp-established=60, udp-stream=180,udp-timeout=30",
			want: with(func(o *Options) { o.Tracking = vpc.Tracking{TCPEstablished: 60, UDPStream: 180, UDPTimeout: 30} })},
		{annotation: AnnotationTracking, text: "tcp-established=432000,udp-stream=60,udp-timeout=60",
			want: with(func(o *Options) { o.Tracking = vpc.Tracking{TCPEstablished: 432000, UDPStream: 60, UDPTimeout: 60} })},
		{annotation: AnnotationTracking, text: "tcp-established=59", says: "tcp-established: want a whole number from 60 to 432000"},
		{annotation: AnnotationTracking, text: "tcp-established=432001", says: "from 60 to 432000"},
		{annotation: AnnotationTracking, text: "udp-stream=59", says: "from 60 to 180"},
		{annotation: AnnotationTracking, text: "udp-timeout=61", says: "from 30 to 60"},
		{annotation: AnnotationTracking, text: "udp-timeout=29", says: "from 30 to 60"},
		{annotation: AnnotationTracking, text: "udp-timeout=30,udp-timeout=31", says: "twice"},
		{annotation: AnnotationTracking, text: "tcp=60", says: `part "tcp=60"`},
		{annotation: AnnotationTags, text: "team=net, cost=a=b", want: with(func(o *Options) { o.Tags = map[string]string{"team": "net", "cost": "a=b"} })},
		{annotation: AnnotationTags, text: "empty=", want: with(func(o *Options) { o.Tags = map[string]string{"empty": ""} })},
		{annotation: AnnotationTags, text: "team", says: "KEY=VALUE"},
		{annotation: AnnotationTags, text: "=x", says: "KEY=VALUE"},
		{annotation: AnnotationTags, text: "a=1,a=2", says: "twice"},
		{annotation: AnnotationTags, text: "AWS:x=1", says: "key AWS:x is AWS's"},
		{annotation: AnnotationTags, text: TagPrefix + "x=1", says: "choose another"},
		{annotation: AnnotationTags, text: "Name=1", says: "key Name"},
		{annotation: AnnotationTags, text: "NodeENI=1", says: "key NodeENI"},
		{annotation: AnnotationTags, text: strings.Repeat("k", 128) + "=" + strings.Repeat("v", 256),
			want: with(func(o *Options) { o.Tags = map[string]string{strings.Repeat("k", 128): strings.Repeat("v", 256)} })},
		{annotation: AnnotationTags, text: strings.Repeat("k", 129) + "=v", says: "at most 128"},
		{annotation: AnnotationTags, text: "k=" + strings.Repeat("v", 257), says: "256"},
		{annotation: AnnotationTags, text: manyTags(41), says: "41 tags: EC2 takes 50, of which the controller needs 10"},
	} {
		in := world()
		in.NodeENIs = []v1alpha1.NodeENI{nodeENI(func(e *v1alpha1.NodeENI) { e.Annotations[tt.annotation] = tt.text })}
		r := Slots(in)
		if tt.says != "" {
			checkFault(t, r.Faults, InvalidOption, []string{tt.annotation, fmt.Sprintf("%q", tt.text), tt.says})
			continue
		}
		if len(r.Slots) != 1 || len(r.Faults) > 0 {
			t.Errorf("%s %q: %v", tt.annotation, tt.text, r.Faults)
			continue
		}
		s := r.Slots[0]
		if diff := cmp.Diff(tt.want, s.Options); diff != "" || s.Card != tt.card || s.AnyCard != tt.any {
			t.Errorf("%s %q: card %d, any %v, options (-want +got):\n%s", tt.annotation, tt.text, s.Card, s.AnyCard, diff)
		}
	}
}

func TestOptionsTogether(t *testing.T) {
	for _, tt := range []struct {
		change func(*v1alpha1.NodeENI)
		says   []string
	}{
		{func(e *v1alpha1.NodeENI) {
			e.Annotations[AnnotationPrefixes], e.Annotations[AnnotationSecondaryAddresses] = "1", "2"
		}, []string{"prefix-count 1", "secondary-address-count 2", "remove one"}},
		{func(e *v1alpha1.NodeENI) { e.Spec.Description = strings.Repeat("ä", 256) }, []string{"spec.description has 256", "255"}},
	} {
		in := world()
		in.NodeENIs = []v1alpha1.NodeENI{nodeENI(tt.change)}
		checkFault(t, Slots(in).Faults, InvalidOption, tt.says)
	}
	in := world()
	in.NodeENIs = []v1alpha1.NodeENI{nodeENI(func(e *v1alpha1.NodeENI) {
		e.Spec.Description = strings.Repeat("ä", 255)
		e.Annotations[AnnotationTags] = manyTags(40)
		e.Annotations[AnnotationPrefixes], e.Annotations[AnnotationSecondaryAddresses] = "1", "0"
	})}
	if r := Slots(in); len(r.Slots) != 1 || len(r.Faults) != 0 {
		t.Errorf("at the limits: %v", r.Faults)
	}
}

func TestAbandoned(t *testing.T) {
	for text, want := range map[string]bool{"true": true, "True": false, "": false, "false": false} {
		if got := Abandoned(nodeENI(func(e *v1alpha1.NodeENI) { e.Annotations[AnnotationAbandon] = text })); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
