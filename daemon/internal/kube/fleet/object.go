package fleet

import (
	"encoding/json"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Object is an object of the API server, trimmed. It is never changed.
type Object[T any] struct {
	Name, UID string
	// Version is the resourceVersion. Generation changes with the spec only.
	Version    string
	Generation int64
	// Deleting: somebody has deleted it, and finalizers keep it.
	Deleting bool
	// Is is the newest readable version of this UID, if Known.
	Is    T
	Known bool
	// Fault is why the newest version cannot be read; "" if it can. The object may be older than the schema, or newer than this program.
	Fault string
}

// same: apart from the resourceVersion.
func (o *Object[T]) same(other *Object[T]) bool {
	a, b := *o, *other
	a.Version, b.Version = "", ""
	return equality.Semantic.DeepEqual(a, b)
}

// Node has the parts of a Node that matter here.
type Node struct {
	Labels map[string]string
	// Annotations are those of networking.k8s.aws only.
	Annotations map[string]string
	ProviderID  string
	// Ready is the condition Ready; false if it is unknown.
	Ready bool
}

// State has the parts of an ENINodeState that matter here.
type State struct {
	// Owner is the UID of the Node in its ownerReferences; "" for none.
	Owner string
	Spec  v1alpha1.ENINodeStateSpec
	// Reported: a daemon has written a status.
	Reported bool
	// Protocol and Released are the status's.
	Protocol int
	Released []v1alpha1.ReleasedENI
	Devices  []Device
}

// Device is an entry of status.devices.
type Device struct {
	ENI, Phase string
	Holders    []string
}

// readMeta reads the metadata that every kind has.
func readMeta(raw []byte) (metav1.ObjectMeta, error) {
	var o struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o)
	return o.Metadata, err
}

// newObject reads an object that was before; nil for none.
func newObject[T any](raw []byte, read func([]byte, *metav1.ObjectMeta) (T, error), before *Object[T]) (*Object[T], error) {
	meta, err := readMeta(raw)
	if err != nil {
		return nil, err
	}
	o := &Object[T]{Name: meta.Name, UID: string(meta.UID), Version: meta.ResourceVersion, Generation: meta.Generation, Deleting: meta.DeletionTimestamp != nil}
	if o.Is, err = read(raw, &meta); err == nil {
		o.Known = true
		return o, nil
	}
	var none T
	o.Is, o.Fault = none, err.Error()
	o.keep(before)
	return o, nil
}

// keep takes the last readable version over, if the newest is not readable.
func (o *Object[T]) keep(before *Object[T]) {
	if !o.Known && before != nil && before.Known && before.UID == o.UID {
		o.Is, o.Known = before.Is, true
	}
}

func readNodeENI(raw []byte, meta *metav1.ObjectMeta) (v1alpha1.NodeENI, error) {
	var o v1alpha1.NodeENI
	err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o)
	o.ObjectMeta = *meta
	o.ManagedFields = nil
	delete(o.Annotations, corev1.LastAppliedConfigAnnotation)
	return o, err
}

// annotationPrefix is the prefix of our annotations.
const annotationPrefix = v1alpha1.GroupName + "/"

func readNode(raw []byte, meta *metav1.ObjectMeta) (Node, error) {
	var o struct {
		Spec struct {
			ProviderID string `json:"providerID"`
		} `json:"spec"`
		Status struct {
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	}
	err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o)
	n := Node{ProviderID: o.Spec.ProviderID, Labels: make(map[string]string, len(meta.Labels))}
	for k, v := range meta.Labels {
		n.Labels[shared(k)] = shared(v)
	}
	for k, v := range meta.Annotations {
		if strings.HasPrefix(k, annotationPrefix) {
			if n.Annotations == nil {
				n.Annotations = map[string]string{}
			}
			n.Annotations[shared(k)] = v
		}
	}
	for _, c := range o.Status.Conditions {
		if c.Type == string(corev1.NodeReady) {
			n.Ready = c.Status == string(corev1.ConditionTrue)
		}
	}
	return n, err
}

// shared returns a copy that equal texts share: thousands of nodes have the same labels.
func shared(s string) string { return unique.Make(s).Value() }

// trimSpec shares texts that many entries have, and gives back the room that the decoder has left in the list.
func trimSpec(s v1alpha1.ENINodeStateSpec) v1alpha1.ENINodeStateSpec {
	if s.Attachments != nil {
		s.Attachments = append(make([]v1alpha1.AttachmentEntry, 0, len(s.Attachments)), s.Attachments...)
	}
	for i := range s.Attachments {
		e := &s.Attachments[i]
		for _, text := range []*string{
			&e.NodeENI.Name, &e.NodeENI.UID, &e.InstanceID, &e.SubnetID, &e.SubnetCIDR, &e.DPDKDriver, &e.ResourceName, &e.Wanted, &e.Phase, &e.Reason,
		} {
			*text = shared(*text)
		}
	}
	return s
}

func readState(raw []byte, meta *metav1.ObjectMeta) (State, error) {
	var o struct {
		Spec   v1alpha1.ENINodeStateSpec `json:"spec"`
		Status json.RawMessage           `json:"status"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o); err != nil {
		return State{}, err
	}
	s := State{Spec: trimSpec(o.Spec)}
	for _, ref := range meta.OwnerReferences {
		if ref.APIVersion == "v1" && ref.Kind == "Node" {
			s.Owner = string(ref.UID)
		}
	}
	if len(o.Status) == 0 {
		return s, nil
	}
	var status struct {
		Protocol int                    `json:"protocol"`
		Released []v1alpha1.ReleasedENI `json:"released"`
		Devices  []struct {
			ENIID   string   `json:"eniID"`
			Phase   string   `json:"phase"`
			Holders []string `json:"holders"`
		} `json:"devices"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(o.Status, &status); err != nil {
		return State{}, err
	}
	s.Reported = string(o.Status) != "null" && string(o.Status) != "{}"
	s.Protocol, s.Released = status.Protocol, status.Released
	for _, d := range status.Devices {
		s.Devices = append(s.Devices, Device{ENI: d.ENIID, Phase: shared(d.Phase), Holders: d.Holders})
	}
	return s, nil
}
