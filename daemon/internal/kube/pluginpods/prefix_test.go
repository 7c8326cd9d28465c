package pluginpods

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

func TestSaidPrefix(t *testing.T) {
	const unknown = "?"
	tests := []struct {
		words []string
		want  string // "" for none said
	}{
		{nil, ""},
		{[]string{"--log-dir=sriovdp", "--log-level=10"}, ""},
		{[]string{"--resource-prefix=openshift.io"}, "openshift.io"},
		{[]string{"-resource-prefix=openshift.io"}, "openshift.io"},
		{[]string{"--resource-prefix", "openshift.io", "-v", "10"}, "openshift.io"},
		{[]string{"/usr/bin/sriovdp", "-v", "10", "-resource-prefix", "a-b.io"}, "a-b.io"},
		{[]string{"-resource-prefix=a.io", "--resource-prefix=b.io"}, "b.io"},
		{[]string{"/bin/sh", "-c", "sriovdp -v 10 --resource-prefix=c.io"}, "c.io"},
		{[]string{"/bin/sh", "-c", "exec sriovdp --resource-prefix d.io --use-cdi"}, "d.io"},
		{[]string{"--resource-prefix=$(PREFIX)"}, unknown},
		{[]string{"--resource-prefix", "$(PREFIX)"}, unknown},
		{[]string{"/bin/sh", "-c", "sriovdp --resource-prefix=$PREFIX"}, unknown},
		{[]string{"/bin/sh", "-c", "sriovdp --resource-prefix='a.io'"}, unknown},
		{[]string{"/bin/sh", "-c", "sriovdp \"--resource-prefix=a.io\""}, unknown},
		{[]string{"--resource-prefix"}, unknown},
		{[]string{"--resource-prefix="}, unknown},
		{[]string{"--resource-prefixes=a.io"}, unknown},
	}
	for _, tt := range tests {
		got, ok, err := saidPrefix(tt.words)
		if err != nil {
			got, ok = unknown, true
		}
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: %q, %t, %v; want %q", tt.words, got, ok, err, tt.want)
		}
		if err == nil && ok && !strings.Contains(tt.words[0], "/") { // the model has Go's own parser
			if model, err := dpmodel.Prefix(tt.words); err != nil || model != got {
				t.Errorf("%q: %q; the model has %q, %v", tt.words, got, model, err)
			}
		}
	}
}

func TestPrefixes(t *testing.T) {
	const config = "/etc/pcidp/config.json"
	pod := func(mount string, args ...string) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{
			Volumes:    []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: mount}}}},
			Containers: []corev1.Container{{Name: "dp", Args: args, VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/pcidp"}}}},
		}}
	}
	sidecar := pod("/etc/pcidp", "--watch")
	sidecar.Spec.Containers = append(sidecar.Spec.Containers, pod("/etc/pcidp", "--resource-prefix=openshift.io").Spec.Containers...)
	unknown := pod("/etc/pcidp", "--resource-prefix=$(X)")
	for name, tt := range map[string]struct {
		pods []corev1.Pod
		want []string
	}{
		"none":  {nil, nil},
		"plain": {[]corev1.Pod{pod("/etc/pcidp")}, []string{"intel.com"}},
		"said":  {[]corev1.Pod{pod("/etc/pcidp", "--resource-prefix=openshift.io")}, []string{"openshift.io"}},
		"two": {[]corev1.Pod{pod("/etc/pcidp", "--resource-prefix=openshift.io"), pod("/etc"), pod("/etc/pcidp")},
			[]string{"intel.com", "openshift.io"}},
		"beside another":          {[]corev1.Pod{sidecar}, []string{"openshift.io"}},
		"one that reads no file":  {[]corev1.Pod{pod("/elsewhere", "--resource-prefix=openshift.io")}, nil},
		"one that cannot be told": {[]corev1.Pod{unknown, pod("/etc/pcidp", "-resource-prefix=a.io")}, []string{"a.io"}},
	} {
		if got := prefixes(tt.pods, config); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	problems := podProblems([]corev1.Pod{unknown}, config)
	if len(problems) == 0 || problems[0].Reason != "DevicePluginPrefixUnknown" && problems[len(problems)-1].Reason != "DevicePluginPrefixUnknown" {
		t.Errorf("problems %+v; want one about the prefix", problems)
	}
}
