package apiserver

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	group         = "/apis/networking.k8s.aws/v1alpha1"
	nodeENIs      = group + "/nodeenis"
	states        = group + "/eninodestates"
	settleTimeout = 30 * time.Second
)

type answer struct {
	Code     int
	Object   map[string]any
	Message  string
	Warnings []string
}

func send(t *testing.T, request *rest.Request, body string) answer {
	t.Helper()
	result := request.SetHeader("Content-Type", "application/json").WarningHandler(rest.NoWarnings{}).Body([]byte(body)).Do(t.Context())
	var a answer
	result.StatusCode(&a.Code)
	for _, w := range result.Warnings() {
		a.Warnings = append(a.Warnings, w.Text)
	}
	data, err := result.Raw()
	if err != nil {
		if a.Code == 0 {
			t.Fatalf("no answer to %s: %v", body, err)
		}
		a.Message = err.Error()
		return a
	}
	if err := json.Unmarshal(data, &a.Object); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	keep := map[string]any{}
	if m, ok := a.Object["metadata"].(map[string]any); ok {
		for _, key := range []string{"name", "labels", "annotations", "finalizers"} {
			if v, ok := m[key]; ok {
				keep[key] = v
			}
		}
	}
	a.Object["metadata"] = keep
	return a
}

func tryNodeENI(t *testing.T, c *cluster.Cluster, body string) answer {
	t.Helper()
	return send(t, c.Admin.Discovery().RESTClient().Post().AbsPath(nodeENIs).Param("dryRun", "All"), body)
}

func tryStatus(t *testing.T, c *cluster.Cluster, name, status string) answer {
	t.Helper()
	o, err := c.NodeENIs().Get(t.Context(), name, metav1.GetOptions{})
	cluster.Must(t, err)
	body := fmt.Sprintf(`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":%q,"resourceVersion":%q},"status":%s}`,
		name, o.GetResourceVersion(), status)
	return send(t, c.Admin.Discovery().RESTClient().Put().AbsPath(nodeENIs, name, "status").Param("dryRun", "All"), body)
}

// table returns the output of `kubectl get -o wide` as rows of cells by column.
func table(t *testing.T, c *cluster.Cluster, path string) (columns []string, rows []map[string]any) {
	t.Helper()
	data, err := c.Admin.Discovery().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
	if err != nil {
		t.Fatalf("get %s as a table: %v", path, err)
	}
	var list metav1.Table
	cluster.Must(t, json.Unmarshal(data, &list))
	for _, d := range list.ColumnDefinitions {
		columns = append(columns, d.Name)
	}
	for _, r := range list.Rows {
		row := map[string]any{}
		for i, cell := range r.Cells {
			row[columns[i]] = cell
		}
		rows = append(rows, row)
	}
	return columns, rows
}

func deployed(t *testing.T, name string) string {
	t.Helper()
	repo, err := nstest.Repo()
	cluster.Must(t, err)
	path := filepath.Join(repo, "deploy", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}
