// Package v1alpha1 holds the NodeENI API of the group networking.k8s.aws: the
// objects in which people declare which ENIs a node has and how pods get them.
//
// The JSON names, kinds and defaults are those of the public
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
