// Package v1alpha1 is the API of the group networking.k8s.aws. In a NodeENI,
// people declare the ENIs of nodes and how pods get them. In an ENINodeState, a
// node reports the ENIs that it has.
//
// A NodeENI has the same fields and defaults as in the public
// aws-multi-eni-controller v1.3, so a manifest for one also fits the other. The
// API server checks only the types of the fields. The node checks their values,
// such as a PCI address, and reports a bad value as a problem.
//
// +kubebuilder:object:generate=true
// +groupName=networking.k8s.aws
package v1alpha1

// The types are plain values; the functions are pure and safe for concurrent use while their receiver stays unchanged.

//go:generate go tool -modfile=../../../../test/tools/go.mod controller-gen object crd paths=. output:crd:dir=../../../../deploy/crd
//go:generate sh -c "rm -rf ../../../../deploy/chart/crds && cp -r ../../../../deploy/crd ../../../../deploy/chart/crds"
//go:generate -command docs go tool -modfile=../../../../test/tools/go.mod crd-ref-docs --renderer=markdown --output-path=../../../../docs/api.md
//go:generate docs --log-level=ERROR --source-path=. --config=../../../../test/tools/gen/crd-ref-docs.yaml --templates-dir=../../../../test/tools/gen/templates
