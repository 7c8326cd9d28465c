package pluginpods

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// prefixFlag is the device plugin's flag for the default resource prefix (flagInit in its cmd/sriovdp; images/entrypoint.sh passes it on).
const prefixFlag = "resource-prefix"

// errNoPrefix: a command line has the flag without a plain value.
var errNoPrefix = errors.New("its value cannot be told from the pod")

// prefixText matches a plain value, without a variable of the kubelet or a shell.
var prefixText = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// prefixes lists the known prefixes of the pods that read the config, sorted, each once.
func prefixes(pods []corev1.Pod, config string) []string {
	var all []string
	for i := range pods {
		if p, reads, err := prefixOf(&pods[i], config); reads && err == nil {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// prefixOf returns a pod's prefix: the first container that mounts the config and sets the flag decides, else the default counts.
// Reads is false if no container mounts the config.
func prefixOf(p *corev1.Pod, config string) (prefix string, reads bool, err error) {
	containers := readers(p, config)
	for _, c := range containers {
		if said, ok, err := saidPrefix(c.command); ok || err != nil {
			return said, true, err
		}
	}
	return pcidp.DefaultPrefix, len(containers) > 0, nil
}

// saidPrefix reads the flag like Go's package flag: one hyphen or two, the value after "=" or as the next word; the last one counts.
// A word with the flag inside is a shell's command line.
func saidPrefix(words []string) (prefix string, ok bool, err error) {
	for i, w := range words {
		name, value, joined := strings.Cut(w, "=")
		switch {
		case name != "-"+prefixFlag && name != "--"+prefixFlag:
			if !strings.Contains(w, "-"+prefixFlag) {
				continue
			}
			inner := strings.Fields(w)
			if len(inner) < 2 {
				return "", false, errNoPrefix
			}
			if value, ok, err = saidPrefix(inner); !ok || err != nil {
				return "", false, errNoPrefix
			}
		case !joined && i+1 < len(words):
			value = words[i+1]
		}
		if !prefixText.MatchString(value) {
			return "", false, errNoPrefix
		}
		prefix, ok = value, true
	}
	return prefix, ok, nil
}

// prefixProblem reports the unknown prefix of a pod.
func prefixProblem(p *corev1.Pod, name, config string) []nodestate.Problem {
	if _, _, err := prefixOf(p, config); err == nil {
		return nil
	}
	return []nodestate.Problem{{
		Reason: reason.DevicePluginPrefixUnknown, Device: name,
		Message: fmt.Sprintf("device plugin %s is started with --%s, but %v; entries of %s without a resourcePrefix are read with the prefix that was known "+
			"last, or with %s; write the value plainly into the container's args, or give each entry a resourcePrefix",
			name, prefixFlag, errNoPrefix, config, pcidp.DefaultPrefix),
	}}
}
