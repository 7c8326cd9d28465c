package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
)

type account struct{ namespace, name string }

func (a account) user() string {
	return "system:serviceaccount:" + a.namespace + ":" + a.name
}

// RotateToken renames a new token of the daemon's ServiceAccount over the kubeconfig's token file, as the kubelet does.
func (c *Cluster) RotateToken(t testing.TB) {
	t.Helper()
	hour := int64(3600) // the API server gives none for less than ten minutes
	answer, err := c.Admin.CoreV1().ServiceAccounts(c.account.namespace).CreateToken(t.Context(), c.account.name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("request a token: %v", err)
	}
	if c.token == "" {
		c.token = filepath.Join(t.TempDir(), "token")
	}
	next := c.token + ".next"
	Must(t, os.WriteFile(next, []byte(answer.Status.Token), 0o600))
	Must(t, os.Rename(next, c.token))
}

// InPod returns the configuration of the daemon in a pod: its token is bound to the pod, and so to the node.
func (c *Cluster) InPod(t testing.TB, pod *corev1.Pod) *rest.Config {
	t.Helper()
	answer, err := c.Admin.CoreV1().ServiceAccounts(c.account.namespace).CreateToken(t.Context(), c.account.name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("request a token of pod %s: %v", pod.Name, err)
	}
	return c.withToken(answer.Status.Token)
}

// InNoPod returns the same with a token that is bound to nothing.
func (c *Cluster) InNoPod(t testing.TB) *rest.Config {
	t.Helper()
	token, err := os.ReadFile(c.token)
	Must(t, err)
	return c.withToken(string(token))
}

// Administrator returns the configuration of a client with all rights.
func (c *Cluster) Administrator() *rest.Config { return c.plane.Admin() }

func (c *Cluster) withToken(token string) *rest.Config {
	config := rest.AnonymousClientConfig(c.plane.Admin())
	config.BearerToken = token
	return config
}

// InvalidateToken invalidates every token of the daemon's ServiceAccount (401): the account is deleted and made again,
// with another UID. The API server may take an old token from its cache for some ten seconds more.
func (c *Cluster) InvalidateToken(t testing.TB) {
	t.Helper()
	accounts := c.Admin.CoreV1().ServiceAccounts(c.account.namespace)
	Must(t, accounts.Delete(t.Context(), c.account.name, metav1.DeleteOptions{}))
	again := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: c.account.name}}
	if _, err := accounts.Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// RevokePermissions deletes the bindings of the daemon's ServiceAccount, until RestorePermissions.
func (c *Cluster) RevokePermissions(t testing.TB, why string) {
	t.Helper()
	c.ExpectDenials(why)
	rbac := c.Admin.RbacV1()
	bindings, err := rbac.ClusterRoleBindings().List(t.Context(), metav1.ListOptions{})
	Must(t, err)
	for _, b := range bindings.Items {
		if !c.account.among(b.Subjects) {
			continue
		}
		Must(t, rbac.ClusterRoleBindings().Delete(t.Context(), b.Name, metav1.DeleteOptions{}))
	}
	local, err := rbac.RoleBindings("").List(t.Context(), metav1.ListOptions{})
	Must(t, err)
	for _, b := range local.Items {
		if !c.account.among(b.Subjects) {
			continue
		}
		Must(t, rbac.RoleBindings(b.Namespace).Delete(t.Context(), b.Name, metav1.DeleteOptions{}))
	}
}

func (a account) among(subjects []rbacv1.Subject) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		return s.Kind == rbacv1.ServiceAccountKind && s.Name == a.name && s.Namespace == a.namespace
	})
}

// RestorePermissions restores the daemon's rights of deploy/.
func (c *Cluster) RestorePermissions(t testing.TB) {
	t.Helper()
	for _, path := range permissions(t) {
		c.ApplyFile(t, path)
	}
}

// WriteKubeconfig writes a kubeconfig of the daemon's ServiceAccount that uses Proxy, and returns its path.
func (c *Cluster) WriteKubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	Must(t, c.plane.WriteTokenKubeconfig(path, c.Proxy.Address, c.token))
	return path
}

// WriteAccountKubeconfig writes a kubeconfig of another ServiceAccount, which does not use Proxy, and returns its path.
func (c *Cluster) WriteAccountKubeconfig(t testing.TB, namespace, name string) string {
	t.Helper()
	hours := int64(4 * 3600) // longer than any test: nobody rotates it
	answer, err := c.Admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("request a token of %s: %v", name, err)
	}
	dir := t.TempDir()
	token, path := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	Must(t, os.WriteFile(token, []byte(answer.Status.Token), 0o600))
	Must(t, c.plane.WriteTokenKubeconfig(path, plane.Address, token))
	return path
}

// As returns the configuration of a ServiceAccount whose kubeconfig is at path.
func As(t testing.TB, kubeconfig string) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	Must(t, err)
	return config
}

// WriteAdminKubeconfig writes a kubeconfig of an administrator, and returns its path.
func (c *Cluster) WriteAdminKubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	Must(t, c.plane.WriteUserKubeconfig(path, "admin", "system:masters"))
	return path
}
