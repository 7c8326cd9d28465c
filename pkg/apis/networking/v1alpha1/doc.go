// Package v1alpha1 holds the API of the group networking.k8s.aws: NodeENI, in
// which people declare which ENIs a node has and how pods get them, and
// ENINodeState, in which a node says what has become of that.
//
// NodeENI's JSON names, kinds and defaults are those of the public
// aws-multi-eni-controller v1.3 and its CRD, so that a manifest or an object
// made for one is good for the other. As in that CRD, only the shape is
// checked on decoding: values such as a PCI address stay the strings that
// people wrote, and whoever acts on them validates them.
//
// The types are plain values; the functions are pure and safe for concurrent
// use as long as nobody changes their receiver.
//
// +kubebuilder:object:generate=true
// +groupName=networking.k8s.aws
package v1alpha1

//go:generate go tool -modfile=../../../../test/tools/gen/go.mod controller-gen object crd paths=. output:crd:dir=../../../../deploy/crd
//go:generate sh -c "rm -rf ../../../../deploy/chart/crds && cp -r ../../../../deploy/crd ../../../../deploy/chart/crds"
//go:generate go tool -modfile=../../../../test/tools/gen/go.mod crd-ref-docs --log-level=ERROR --source-path=. --config=../../../../test/tools/gen/crd-ref-docs.yaml --renderer=markdown --output-path=../../../../docs/api.md
