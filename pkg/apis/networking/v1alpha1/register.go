package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// SchemeGroupVersion is the group and version of every kind of this package.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: Version}

// AddToScheme makes the kinds of this package, and the options that requests
// for them take, known to a scheme. It changes nothing but the scheme.
func AddToScheme(s *runtime.Scheme) error {
	builder := runtime.NewSchemeBuilder(addKinds)
	return builder.AddToScheme(s)
}

func addKinds(s *runtime.Scheme) error {
	s.AddKnownTypes(SchemeGroupVersion, &NodeENI{}, &NodeENIList{}, &ENINodeState{}, &ENINodeStateList{})
	metav1.AddToGroupVersion(s, SchemeGroupVersion)
	return nil
}
