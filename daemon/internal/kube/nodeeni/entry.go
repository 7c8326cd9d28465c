package nodeeni

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// entry is our knowledge of one NodeENI; immutable.
type entry struct {
	trimmed []byte
	// object is the newest readable version, whose labels select nodes. Before any, it has a name and perhaps a selector.
	object v1alpha1.NodeENI
	known  bool
	// fault is why the newest version cannot be read; "" if it can.
	fault string
}

// newEntry reads a version of the object that was prev before; nil for none. Without a change it returns prev.
//
// An object may be older than the schema, so it may have parts that the schema forbids. An unreadable part stays as it was.
func newEntry(prev *entry, it *item) *entry {
	if prev != nil && bytes.Equal(prev.trimmed, it.trimmed) {
		return prev
	}
	o, err := decode(it.trimmed)
	if err == nil {
		return &entry{trimmed: it.trimmed, object: o, known: true}
	}
	var part struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	var selector struct {
		Spec struct {
			NodeSelector map[string]string `json:"nodeSelector"`
		} `json:"spec"`
	}
	metaErr := kjson.UnmarshalCaseSensitivePreserveInts(it.trimmed, &part)
	selectorErr := kjson.UnmarshalCaseSensitivePreserveInts(it.trimmed, &selector)
	d := &entry{trimmed: it.trimmed, fault: err.Error()}
	if metaErr == nil && part.Metadata.DeletionTimestamp != nil {
		return &entry{trimmed: it.trimmed, object: v1alpha1.NodeENI{ObjectMeta: part.Metadata}, known: true}
	}
	if prev != nil && prev.known && metaErr == nil && prev.object.UID == part.Metadata.UID {
		d.object, d.known = prev.object, true
	} else if metaErr == nil {
		d.object.ObjectMeta = part.Metadata
	}
	d.object.Name = it.Name
	if selectorErr == nil {
		d.object.Spec.NodeSelector = selector.Spec.NodeSelector
	}
	return d
}

// selectedBy: it is for that node, or may be.
func (d *entry) selectedBy(n nodeFacts) bool {
	return d != nil && n.selects(d.object.Spec.NodeSelector)
}

func (d *entry) same(o *entry) bool {
	return d.fault == o.fault && d.known == o.known && equality.Semantic.DeepEqual(d.object, o.object)
}

func (d *entry) problem() nodestate.Problem {
	until := "until then it is acted upon as it was before"
	if !d.known {
		until = "until then its devices on this node stay as they are"
	}
	return nodestate.Problem{
		Reason: reason.NodeENIUnreadable, NodeENI: d.object.Name,
		Message: fmt.Sprintf("the object cannot be read (%s); correct or delete it, %s", d.fault, until),
	}
}
