package pluginpods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// podServer is the API that a DevicePlugin needs. Any other request fails the test.
type podServer struct {
	t *testing.T

	mu sync.Mutex
	// pods are by namespace/name; answers has the status codes that refuse lists of a namespace.
	pods    map[string]corev1.Pod
	answers map[string]int
	// onDelete runs before a deletion; replace runs instead of removing the pod.
	onDelete func(name string) int
	replace  func(old corev1.Pod)
	requests []string
}

func servePods(t *testing.T, pods ...corev1.Pod) *podServer {
	s := &podServer{t: t, pods: map[string]corev1.Pod{}, answers: map[string]int{}}
	for _, p := range pods {
		s.pods[podName(&p)] = p
	}
	return s
}

func (s *podServer) plugin(o Options) *DevicePlugin {
	s.t.Helper()
	server := httptest.NewServer(s)
	s.t.Cleanup(server.Close)
	c, err := client.New(&rest.Config{Host: server.URL, QPS: -1}, "node-a")
	if err != nil {
		s.t.Fatal(err)
	}
	o.Config = configFile
	if o.Log == nil {
		o.Log = fakekube.Quiet()
	}
	d, err := New(c, o)
	if err != nil {
		s.t.Fatal(err)
	}
	d.now = func() time.Time { return written.Add(time.Minute) }
	d.patience, d.poll = 300*time.Millisecond, time.Millisecond
	return d
}

func (s *podServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"), "/")
	switch {
	case r.Method == http.MethodGet && len(parts) == 2 && parts[1] == "pods":
		s.requests = append(s.requests, "LIST "+parts[0])
		s.list(w, r, parts[0])
	case r.Method == http.MethodDelete && len(parts) == 3 && parts[1] == "pods":
		s.requests = append(s.requests, "DELETE "+parts[0]+"/"+parts[2])
		s.delete(w, r, parts[0]+"/"+parts[2])
	default:
		s.t.Errorf("request %s %s is not known", r.Method, r.URL)
		fakekube.Refuse(w, http.StatusTeapot)
	}
}

func (s *podServer) list(w http.ResponseWriter, r *http.Request, namespace string) {
	want := map[string][]string{"fieldSelector": {"spec.nodeName=node-a"}, "resourceVersion": {"0"}}
	query := r.URL.Query()
	query.Del("timeout") // a bound of the request, no condition
	if diff := cmp.Diff(want, map[string][]string(query)); diff != "" {
		s.t.Errorf("query of %s (-want +got):\n%s", r.URL, diff)
	}
	if code := s.answers[namespace]; code != 0 {
		fakekube.Refuse(w, code)
		return
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, name := range slices.Sorted(maps.Keys(s.pods)) {
		if p := s.pods[name]; p.Namespace == namespace && p.Spec.NodeName == "node-a" {
			list.Items = append(list.Items, p)
		}
	}
	fakekube.Respond(w, http.StatusOK, list)
}

func (s *podServer) delete(w http.ResponseWriter, r *http.Request, name string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	var options metav1.DeleteOptions
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &options); err != nil {
		s.t.Errorf("body of DELETE %s: %v", name, err)
	}
	if s.onDelete != nil {
		if code := s.onDelete(name); code != 0 {
			fakekube.Refuse(w, code)
			return
		}
	}
	p, ok := s.pods[name]
	if !ok {
		fakekube.Refuse(w, http.StatusNotFound)
		return
	}
	want := metav1.DeleteOptions{Preconditions: options.Preconditions}
	options.TypeMeta = metav1.TypeMeta{}
	if diff := cmp.Diff(want, options); diff != "" || options.Preconditions == nil || options.Preconditions.UID == nil {
		s.t.Errorf("options of DELETE %s are not a UID alone: %+v", name, options)
		return
	}
	if *options.Preconditions.UID != p.UID {
		fakekube.Refuse(w, http.StatusConflict)
		return
	}
	delete(s.pods, name)
	if s.replace != nil {
		s.replace(p)
	}
	fakekube.Respond(w, http.StatusOK, p)
}

// daemonSet replaces each deleted pod with one of another name in that state.
func (s *podServer) daemonSet(state corev1.ContainerState) *podServer {
	n := 0
	s.replace = func(old corev1.Pod) {
		n++
		p := old
		p.Name, p.UID = fmt.Sprintf("new-%d", n), types.UID(fmt.Sprintf("uid-new-%d", n))
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "dp", State: state}}
		s.pods[podName(&p)] = p
	}
	return s
}

func inNamespace(namespace, label string, p corev1.Pod) corev1.Pod {
	key, value, _ := strings.Cut(label, "=")
	p.Namespace, p.Labels = namespace, map[string]string{key: value}
	p.UID = types.UID(namespace + label)
	return p
}

func wanted(devices map[device.ResourceName][]device.PCIAddress) pluginrestart.Wanted {
	return pluginrestart.Wanted{Path: configFile, Hash: "h", Written: written, Devices: devices}
}

func TestRestart(t *testing.T) {
	for name, tc := range map[string]struct {
		server        func(t *testing.T) *podServer
		deleted, pods []string
		// undone are the pods of the PartialError; want is another error.
		undone []string
		want   error
	}{
		"one": {
			server:  func(t *testing.T) *podServer { return servePods(t, pluginPod("a", at(9))).daemonSet(at(14)) },
			deleted: []string{"kube-system/a"}, pods: []string{"kube-system/new-1"},
		},
		"none":  {server: func(t *testing.T) *podServer { return servePods(t) }, want: pluginrestart.ErrNoDevicePlugin},
		"young": {server: func(t *testing.T) *podServer { return servePods(t, pluginPod("a", at(12))) }, pods: []string{"kube-system/a"}},
		"bare": {
			server: func(t *testing.T) *podServer { return servePods(t, with(pluginPod("a", at(9)), bare)) },
			pods:   []string{"kube-system/a"}, undone: []string{"kube-system/a"},
		},
		"never replaced": {
			server:  func(t *testing.T) *podServer { return servePods(t, pluginPod("a", at(9))) },
			deleted: []string{"kube-system/a"}, undone: []string{"kube-system/a"},
		},
		"replaced by one that does not start": {
			server: func(t *testing.T) *podServer {
				return servePods(t, with(pluginPod("a", at(9)), notReady)).daemonSet(waiting("ImagePullBackOff"))
			},
			deleted: []string{"kube-system/a"}, pods: []string{"kube-system/new-1"}, undone: []string{"kube-system/new-1"},
		},
		"may not be deleted": {
			server: func(t *testing.T) *podServer {
				s := servePods(t, pluginPod("a", at(9)))
				s.onDelete = func(string) int { return 403 }
				return s
			},
			pods: []string{"kube-system/a"}, undone: []string{"kube-system/a"},
		},
		"gone before it was deleted": {
			server: func(t *testing.T) *podServer {
				s := servePods(t, pluginPod("a", at(9)))
				s.onDelete = func(name string) int {
					delete(s.pods, name)
					s.pods["b"] = pluginPod("b", at(14))
					return 0
				}
				return s
			},
			pods: []string{"kube-system/b"},
		},
		"replaced under the same name": {
			server: func(t *testing.T) *podServer {
				s := servePods(t, pluginPod("a", at(9)))
				s.onDelete = func(name string) int {
					s.pods[name] = with(pluginPod("a", at(14)), func(p *corev1.Pod) { p.UID = "uid-later" })
					return 0
				}
				return s
			},
			pods: []string{"kube-system/a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.server(t).plugin(Options{}).Restart(t.Context(), wanted(nil))
			var partial *PartialError
			var undone []string
			if errors.As(err, &partial) {
				undone = slices.Sorted(maps.Keys(partial.Pods))
			} else if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			for what, c := range map[string]struct{ want, got []string }{
				"deleted": {tc.deleted, got.Deleted}, "pods": {tc.pods, got.Pods}, "undone": {tc.undone, undone},
			} {
				if diff := cmp.Diff(c.want, c.got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

// A second call finds nothing to do: the first has verified all.
func TestRestartIsFreeWhenRepeated(t *testing.T) {
	s := servePods(t, pluginPod("a", at(9))).daemonSet(at(14))
	d := s.plugin(Options{Namespaces: []string{"default", "kube-system"}})
	for range 3 {
		if _, err := d.Restart(t.Context(), wanted(nil)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"LIST default", "LIST kube-system", "DELETE kube-system/a", "LIST kube-system", // where pods were found
		"LIST default", "LIST kube-system",
		"LIST default", "LIST kube-system",
	}
	if diff := cmp.Diff(want, s.requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestRestartIsVerifiedByTheKubelet(t *testing.T) {
	none := []device.PCIAddress{}
	two := []device.PCIAddress{"0000:00:07.0", "0000:00:06.0"}
	for name, tc := range map[string]struct {
		want    []device.PCIAddress
		offered []device.PCIAddress
		err     error
		says    string
	}{
		"exactly these":      {two, []device.PCIAddress{"0000:00:06.0", "0000:00:07.0"}, nil, ""},
		"none":               {none, nil, nil, ""},
		"one is missing":     {two, []device.PCIAddress{"0000:00:06.0"}, nil, "offers [0000:00:06.0], want [0000:00:06.0 0000:00:07.0]"},
		"one too many":       {none, []device.PCIAddress{"0000:00:06.0"}, nil, "offers [0000:00:06.0], want []"},
		"it cannot be asked": {none, nil, io.ErrUnexpectedEOF, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			kubelet := func(context.Context) (inventory.Kubelet, error) {
				asked++
				if asked == 2 { // the device plugin has yet to register
					return inventory.Kubelet{}, errors.New("not yet")
				}
				return inventory.Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{"intel.com/a": tc.offered}}, tc.err
			}
			d := servePods(t, pluginPod("a", at(9))).daemonSet(at(14)).plugin(Options{Kubelet: kubelet})
			_, err := d.Restart(t.Context(), wanted(map[device.ResourceName][]device.PCIAddress{"intel.com/a": tc.want}))
			if tc.says == "" {
				if err != nil || asked != 3 {
					t.Errorf("error %v after %d questions, want none after 3", err, asked)
				}
				return
			}
			var partial *PartialError
			if !errors.As(err, &partial) || partial.Resources["intel.com/a"] == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want a PartialError of intel.com/a with %q", err, tc.says)
			}
			if tc.err != nil && !errors.Is(err, tc.err) {
				t.Errorf("error %v does not wrap %v", err, tc.err)
			}
		})
	}
}

func TestRestartNamesTheHoldersOnce(t *testing.T) {
	var out strings.Builder
	log := logrus.New()
	log.SetOutput(&out)
	known := inventory.Kubelet{
		Allocatable: map[device.ResourceName][]device.PCIAddress{"intel.com/a": {"0000:00:06.0"}, "intel.com/b": {"0000:00:08.0"}},
		Allocated: map[device.PCIAddress][]inventory.Container{
			"0000:00:06.0": {{Namespace: "apps", Pod: "drained", Container: "c"}}, // of a device that is being removed
			"0000:00:07.0": {{Namespace: "apps", Pod: "one", Container: "c"}, {Namespace: "apps", Pod: "one", Container: "d"}},
			"0000:00:08.0": {{Namespace: "apps", Pod: "foreign", Container: "c"}},
		},
	}
	d := servePods(t, pluginPod("a", at(9))).daemonSet(at(14)).plugin(Options{
		Log: log, Kubelet: func(context.Context) (inventory.Kubelet, error) { return known, nil },
	})
	_, err := d.Restart(t.Context(), wanted(map[device.ResourceName][]device.PCIAddress{"intel.com/a": {"0000:00:07.0"}}))
	if err == nil {
		t.Error("the kubelet still offers the old devices, but the restart is verified")
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `holders="[apps/drained apps/one]"`) {
		t.Errorf("log is %q, want one line with the holders", got)
	}
}

func TestRestartEndsWithItsContext(t *testing.T) {
	s := servePods(t, pluginPod("a", at(9)))
	ctx, cancel := context.WithCancel(t.Context())
	s.onDelete = func(string) int { cancel(); return 0 }
	d := s.plugin(Options{})
	d.patience = time.Minute
	if _, err := d.Restart(ctx, wanted(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestRestartSurvivesAnOutage(t *testing.T) {
	s := servePods(t, pluginPod("a", at(9))).daemonSet(at(14))
	failed := 0
	s.onDelete = func(string) int { s.answers["kube-system"] = 500; return 0 }
	d := s.plugin(Options{})
	d.patience = time.Minute
	done := make(chan error, 1)
	go func() {
		_, err := d.Restart(t.Context(), wanted(nil))
		done <- err
	}()
	for deadline := time.After(30 * time.Second); failed < 3; {
		select {
		case err := <-done:
			t.Fatalf("ended with %v while the API server does not answer", err)
		case <-deadline:
			t.Fatal("the API server was not asked again")
		case <-time.After(time.Millisecond):
		}
		s.mu.Lock()
		failed = len(s.requests) - 6 // five namespaces and a DELETE
		s.mu.Unlock()
	}
	s.mu.Lock()
	clear(s.answers)
	s.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The caller, not this package, logs a missing device plugin.
func TestNoDevicePluginIsNotLogged(t *testing.T) {
	var out strings.Builder
	log := logrus.New()
	log.SetOutput(&out)
	log.SetLevel(logrus.TraceLevel)
	s := servePods(t)
	s.answers["default"] = 403
	d := s.plugin(Options{Log: log})
	for range 10 {
		_, found := d.Find(t.Context())
		_, restarted := d.Restart(t.Context(), wanted(nil))
		if !errors.Is(found, pluginrestart.ErrNoDevicePlugin) || !errors.Is(restarted, pluginrestart.ErrNoDevicePlugin) {
			t.Fatalf("errors %v and %v, want ErrNoDevicePlugin", found, restarted)
		}
	}
	if out.Len() > 0 {
		t.Errorf("logged %q, want nothing", out.String())
	}
}
