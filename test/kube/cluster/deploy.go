package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

const fieldManager = "multi-eni-test"

// crdTimeout bounds the time until the API server serves a new kind, and until a deleted kind and its objects are gone.
const crdTimeout = 30 * time.Second

func crds() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
}

// applyDeploy applies deploy/, except own-node.yaml: the daemon runs in no pod here, so its token names no node.
func (c *Cluster) applyDeploy(t testing.TB) {
	t.Helper()
	c.InstallCRDs(t)
	for _, path := range slices.Concat(permissions(t), deployed(t, "admission/nodeeni-*.yaml")) {
		c.ApplyFile(t, path)
	}
	if c.account == (account{}) {
		t.Fatal("deploy/ has no ServiceAccount for the daemon")
	}
}

func permissions(t testing.TB) []string {
	t.Helper()
	return deployed(t, "rbac*.yaml")
}

func deployed(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repo(t), "deploy", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("deploy/ has no %s (%v)", pattern, err)
	}
	return files
}

// InstallCRDs applies the CRDs of deploy/crd and waits until they are served.
func (c *Cluster) InstallCRDs(t testing.TB) {
	t.Helper()
	for _, path := range deployed(t, "crd/*.yaml") {
		for _, o := range c.ApplyFile(t, path) {
			c.AwaitServed(t, o)
		}
	}
}

// AwaitServed waits until the API server serves the kind of a CRD.
func (c *Cluster) AwaitServed(t testing.TB, crd *unstructured.Unstructured) {
	t.Helper()
	Eventually(t, "CRD "+crd.GetName()+" served", crdTimeout, func() error {
		o, err := c.Dynamic.Resource(crds()).Get(t.Context(), crd.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		if err != nil {
			return err
		}
		for _, raw := range conditions {
			if cond, ok := raw.(map[string]any); ok && cond["type"] == "Established" && cond["status"] == "True" {
				return c.lists(t, o)
			}
		}
		return errors.New("not Established")
	})
}

// lists says whether the API server answers for a CRD's kind, a moment after it is Established.
func (c *Cluster) lists(t testing.TB, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")            // a CRD without one is refused
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural") // likewise
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")       // likewise
	version, _ := versions[0].(map[string]any)["name"].(string)
	_, err := c.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: plural}).List(t.Context(), metav1.ListOptions{Limit: 1})
	return err
}

// DeleteCRD deletes a CRD of our group by its plural, with all objects, and waits until the API server answers 404.
func (c *Cluster) DeleteCRD(t testing.TB, plural string) {
	t.Helper()
	err := c.Dynamic.Resource(crds()).Delete(t.Context(), plural+"."+ours("").Group, metav1.DeleteOptions{})
	if err != nil {
		t.Fatalf("delete CRD: %v", err)
	}
	Eventually(t, "CRD "+plural+" gone", crdTimeout, func() error {
		_, err := c.Dynamic.Resource(ours(plural)).List(t.Context(), metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("answered %w", err)
	})
}

// deleteAll deletes all objects of a kind of our group. A kind without a CRD has none.
func (c *Cluster) deleteAll(ctx context.Context, plural string) {
	kind := c.Dynamic.Resource(ours(plural))
	list, err := kind.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, o := range list.Items {
		if len(o.GetFinalizers()) > 0 {
			free := []byte(`{"metadata":{"finalizers":null}}`)
			kind.Patch(ctx, o.GetName(), "application/merge-patch+json", free, metav1.PatchOptions{}) //nolint:errcheck,gosec // gone by itself
		}
		kind.Delete(ctx, o.GetName(), metav1.DeleteOptions{}) //nolint:errcheck,gosec // gone by itself
	}
}

// ApplyFile applies every object of a manifest and returns the results. It makes the namespaces that they need.
func (c *Cluster) ApplyFile(t testing.TB, path string) []*unstructured.Unstructured {
	t.Helper()
	all := ReadFile(t, path)
	for i, o := range all {
		all[i] = c.Apply(t, o)
	}
	return all
}

// ReadFile reads every object of a manifest.
func ReadFile(t testing.TB, path string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(path)
	Must(t, err)
	var out []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := documents.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}

// Apply applies one object (server-side, by force) and returns the result.
func (c *Cluster) Apply(t testing.TB, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	if o.GetKind() == "ServiceAccount" && c.account == (account{}) {
		c.account = account{o.GetNamespace(), o.GetName()}
	}
	if o.GetNamespace() != "" {
		c.EnsureNamespace(t, o.GetNamespace())
	}
	applied, err := c.client(t, o).Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		t.Fatalf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return applied
}

// TryApply applies an object as a dry run that rejects unknown fields (fieldValidation=Strict).
func (c *Cluster) TryApply(t testing.TB, o *unstructured.Unstructured) error {
	t.Helper()
	if o.GetNamespace() != "" {
		c.EnsureNamespace(t, o.GetNamespace())
	}
	data, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = c.client(t, o).Patch(t.Context(), o.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{
		FieldManager: fieldManager, Force: &force, DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
	})
	return err
}

// Delete deletes an object if it exists. It works after the test's end, too.
func (c *Cluster) Delete(t testing.TB, o *unstructured.Unstructured) {
	t.Helper()
	if err := c.client(t, o).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("delete %s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func (c *Cluster) client(t testing.TB, o *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	groups, err := restmapper.GetAPIGroupResources(c.Admin.Discovery())
	Must(t, err)
	gvk := o.GroupVersionKind()
	mapping, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(gvk.GroupKind(), gvk.Version)
	Must(t, err)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace())
	}
	return c.Dynamic.Resource(mapping.Resource)
}

// EnsureNamespace makes a missing namespace.
func (c *Cluster) EnsureNamespace(t testing.TB, name string) {
	t.Helper()
	if slices.Contains([]string{"", "default", "kube-system"}, name) {
		return // the API server makes them itself
	}
	c.Apply(t, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
	}})
}
