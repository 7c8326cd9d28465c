package pluginpods

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
)

func TestFind(t *testing.T) {
	s := servePods(t)
	var want []string
	for _, namespace := range DefaultNamespaces() {
		for i, label := range DefaultSelectors() {
			p := inNamespace(namespace, label, pluginPod(fmt.Sprint("dp-", i), at(9)))
			s.pods[podName(&p)] = p
			want = append(want, podName(&p))
		}
	}
	for name, p := range map[string]corev1.Pod{
		"elsewhere":     with(inNamespace("default", "app=sriovdp", pluginPod("x", at(9))), func(p *corev1.Pod) { p.Spec.NodeName = "node-b" }),
		"other label":   inNamespace("default", "app=other", pluginPod("y", at(9))),
		"ended":         with(inNamespace("default", "app=sriovdp", pluginPod("z", at(9))), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		"not a default": inNamespace("monitoring", "app=sriovdp", pluginPod("v", at(9))),
	} {
		s.pods[name] = p
	}
	slices.Sort(want)
	got, err := s.plugin(Options{}).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Readers) != len(want) || got.Readers[0].Started != at(9).Running.StartedAt.Unix() {
		t.Errorf("runs %v, want one of each pod", got.Readers)
	}
	got.Readers = nil
	if diff := cmp.Diff(pluginrestart.PluginReport{Pods: want, Prefixes: []string{"intel.com"}}, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if len(s.requests) != 5 {
		t.Errorf("requests %q, want one for each namespace", s.requests)
	}
}

func TestFindSaysWhatItCouldNotSearch(t *testing.T) {
	for name, tc := range map[string]struct {
		answers  map[string]int
		pods     []corev1.Pod
		want     error
		says     string
		problems int
	}{
		"nothing":               {want: pluginrestart.ErrNoDevicePlugin},
		"one forbidden, no pod": {answers: map[string]int{"a": 403}, want: pluginrestart.ErrNoDevicePlugin, problems: 1},
		"one forbidden, a pod":  {answers: map[string]int{"a": 403}, pods: []corev1.Pod{inNamespace("b", "app=sriovdp", pluginPod("x", at(9)))}},
		"all forbidden":         {answers: map[string]int{"a": 403, "b": 403}, says: "no namespace may be searched"},
		"no such namespace":     {answers: map[string]int{"a": 404}, want: pluginrestart.ErrNoDevicePlugin},
		"one unknown": {answers: map[string]int{"a": 500}, pods: []corev1.Pod{inNamespace("b", "app=sriovdp", pluginPod("x", at(9)))},
			says: "search namespace a"},
		"one unknown, forbidden b": {answers: map[string]int{"a": 500, "b": 403}, says: "search namespace a"},
	} {
		t.Run(name, func(t *testing.T) {
			s := servePods(t, tc.pods...)
			maps.Copy(s.answers, tc.answers)
			got, err := s.plugin(Options{Namespaces: []string{"b", "a", "b"}}).Find(t.Context())
			if tc.says == "" && !errors.Is(err, tc.want) || tc.says != "" && (err == nil || errors.Is(err, pluginrestart.ErrNoDevicePlugin) ||
				!strings.Contains(err.Error(), tc.says)) {
				t.Errorf("error %v, want %v %q", err, tc.want, tc.says)
			}
			if len(got.Problems) != tc.problems || tc.problems == 1 && got.Problems[0].Reason != "NamespacesNotSearchable" {
				t.Errorf("problems %+v, want %d", got.Problems, tc.problems)
			}
		})
	}
}

func TestNewDevicePluginRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		says string
	}{
		"namespace":       {Options{Namespaces: []string{"a/b"}}, `"a/b"`},
		"empty namespace": {Options{Namespaces: []string{""}}, `""`},
		"no namespace":    {Options{Namespaces: []string{}}, "--dp-namespaces"},
		"selector":        {Options{Selectors: []string{"a b"}}, `"a b"`},
		"empty selector":  {Options{Selectors: []string{""}}, "without labels"},
		"all but some":    {Options{Selectors: []string{"!a"}}, "without labels"},
		"no selector":     {Options{Selectors: []string{}}, "--dp-selectors"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(nil, tc.o); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want %q in it", err, tc.says)
			}
		})
	}
}
