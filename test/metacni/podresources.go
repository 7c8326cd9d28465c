package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// podResourcesTimeout bounds one question to the kubelet.
const podResourcesTimeout = 10 * time.Second

// allocated are the devices that the kubelet has allocated to a pod's containers, by resource name and
// then device. The kubelet allocates before it creates a sandbox, so a pod that it does not list has none.
// It lists static pods like others.
func allocated(ctx context.Context, socket, namespace, name string) ([]string, error) {
	if namespace == "" || name == "" {
		return nil, errors.New("CNI_ARGS names no pod: K8S_POD_NAMESPACE and K8S_POD_NAME are needed")
	}
	ctx, cancel := context.WithTimeout(ctx, podResourcesTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to podresources: %w", err)
	}
	defer conn.Close()
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("list podresources: %w", err)
	}
	type device struct{ resource, id string }
	var all []device
	for _, p := range list.GetPodResources() {
		if p.GetNamespace() != namespace || p.GetName() != name {
			continue
		}
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				for _, id := range d.GetDeviceIds() {
					all = append(all, device{d.GetResourceName(), id})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b device) int {
		return strings.Compare(a.resource+" "+a.id, b.resource+" "+b.id)
	})
	var ids []string
	for _, d := range all {
		ids = append(ids, d.id)
	}
	return ids, nil
}
