package cluster

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Allowed says whether the API server allows the client's account a verb on "group/resource/subresource". " in NAMESPACE" and then " named OBJECT" may
// follow.
func Allowed(t testing.TB, client kubernetes.Interface, what, verb string) bool {
	t.Helper()
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes(what, verb)},
	}, metav1.CreateOptions{})
	Must(t, err)
	return review.Status.Allowed
}

func attributes(what, verb string) *authorizationv1.ResourceAttributes {
	a := &authorizationv1.ResourceAttributes{Verb: verb}
	what, a.Name, _ = strings.Cut(what, " named ")
	what, a.Namespace, _ = strings.Cut(what, " in ")
	a.Group, a.Resource, _ = strings.Cut(what, "/")
	a.Resource, a.Subresource, _ = strings.Cut(a.Resource, "/")
	return a
}
