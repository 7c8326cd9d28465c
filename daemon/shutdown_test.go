package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestOnlyARunningHelperFreesThePod: the daemon deletes its own Pod object only if it was asked to stop, a helper runs, there is a cluster,
// and it knows its pod. One log line tells people, or how to do it themselves.
func TestOnlyARunningHelperFreesThePod(t *testing.T) {
	own := client.OwnPod{Namespace: "kube-system", Name: "multi-enid-x", UID: "u1"}
	command := "kubectl -n kube-system delete pod multi-enid-x --force --grace-period=0"
	for bits := range 1 << 6 {
		has := func(bit int) bool { return bits>>bit&1 == 1 }
		asked, helper, cluster, named, uid, refused := has(0), has(1), has(2), has(3), has(4), has(5)
		var said bytes.Buffer
		log := logrus.New()
		log.SetOutput(&said)
		log.SetFormatter(&logrus.JSONFormatter{})
		var released []client.OwnPod
		d := departure{asked: asked, log: log}
		if helper {
			d.devices = []device.PCIAddress{"0000:00:06.0"}
		}
		if named {
			d.pod.Namespace, d.pod.Name = own.Namespace, own.Name
		}
		if uid {
			d.pod.UID = own.UID
		}
		if cluster {
			d.release = func(ctx context.Context, pod client.OwnPod) error {
				released = append(released, pod)
				if ctx.Err() != nil {
					t.Errorf("the deletion ends before it begins: %v", ctx.Err())
				}
				if refused {
					return errors.New("refused")
				}
				return nil
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		d.leave(ctx)
		frees := asked && helper && cluster && named && uid
		if frees != (len(released) == 1) || frees && released[0] != own {
			t.Errorf("%06b: released %v, want that %v", bits, released, frees)
		}
		lines := strings.Count(said.String(), "\n")
		switch {
		case !helper && lines != 0, helper && lines != 1:
			t.Errorf("%06b: %d lines:\n%s", bits, lines, &said)
		case helper && !strings.Contains(said.String(), "0000:00:06.0"):
			t.Errorf("%06b: no device: %s", bits, &said)
		case frees && !strings.Contains(said.String(), "kube-system/multi-enid-x"):
			t.Errorf("%06b: no pod: %s", bits, &said)
		case frees && refused != strings.Contains(said.String(), command), helper && !frees && !strings.Contains(said.String(), "--force --grace-period=0"):
			t.Errorf("%06b: the command: %s", bits, &said)
		}
	}
}

// TestShippedPod: the daemon of deploy/ knows the pod that it runs in.
func TestShippedPod(t *testing.T) {
	var daemon struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Env []struct {
							Name      string
							ValueFrom struct{ FieldRef struct{ FieldPath string } }
						}
					}
				}
			}
		}
	}
	shipped(t, "daemon.yaml", &daemon)
	env := map[string]string{}
	for _, e := range daemon.Spec.Template.Spec.Containers[0].Env {
		env[e.Name] = e.ValueFrom.FieldRef.FieldPath
	}
	var c nodeFlags
	c.add(pflag.NewFlagSet("run", pflag.ContinueOnError), program{getenv: func(name string) string { return env[name] }})
	if want := (client.OwnPod{Namespace: "metadata.namespace", Name: "metadata.name", UID: "metadata.uid"}); c.ownPod() != want {
		t.Errorf("the pod is made of %+v, want %+v", c.ownPod(), want)
	}
}
