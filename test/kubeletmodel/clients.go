package kubeletmodel

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// client is the kubelet's side of one registration.
type client struct {
	resource, socket string
	conn             Conn // nil until it is connected, and after it is disconnected; guarded by serverMu
}

// Register is the call of the Registration service: the plugin behind a socket of the folder becomes the current one of a resource.
// It fails if the plugin cannot be reached within 10 s.
func (k *Kubelet) Register(ctx context.Context, r *deviceapi.RegisterRequest) error {
	k.unhung(ctx)
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if k.ctx.Err() != nil {
		return status.Error(codes.Unavailable, "the kubelet has ended")
	}
	if !slices.Contains(deviceapi.SupportedVersions[:], r.GetVersion()) {
		return status.Errorf(codes.Unknown, "version %q is not supported", r.GetVersion())
	}
	if domain, _, ok := strings.Cut(r.GetResourceName(), "/"); !ok || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		return status.Errorf(codes.Unknown, "%q is no name of an extended resource", r.GetResourceName())
	}
	// A plugin's call that is given up does not end the kubelet's work. In the real kubelet the dial ends with the call.
	if err := k.connect(ctx, r.GetResourceName(), filepath.Join(k.o.Folder, r.GetEndpoint())); err != nil {
		return status.Error(codes.Unknown, err.Error())
	}
	return nil
}

func (k *Kubelet) connect(ctx context.Context, resource, socket string) error {
	c := &client{resource: resource, socket: socket}
	k.serverMu.Lock()
	if k.o.Version == V136 {
		k.clients[resource] = nil
	}
	k.clients[resource] = append(k.clients[resource], c)
	k.serverMu.Unlock()
	k.o.Pause(Registering, resource)
	if err := k.connectPlugin(ctx, c); err != nil {
		k.deregister(c)
		return err
	}
	k.serverMu.Lock()
	defer k.serverMu.Unlock()
	if k.ctx.Err() == nil {
		k.wg.Go(func() { k.run(c) })
	}
	return nil
}

func (k *Kubelet) connectPlugin(ctx context.Context, c *client) error {
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := k.o.Dial(dialCtx, c.socket)
	if err != nil {
		return fmt.Errorf("dial the device plugin: %w", err)
	}
	k.serverMu.Lock()
	c.conn = conn
	k.serverMu.Unlock()
	context.AfterFunc(k.ctx, func() { _ = conn.Close() }) //nolint:contextcheck // it lives as long as the kubelet
	options, err := conn.GetDevicePluginOptions(ctx, &deviceapi.Empty{})
	if err != nil {
		return fmt.Errorf("ask the device plugin for its options: %w", err)
	}
	e := &endpoint{conn: conn, socket: c.socket, prefers: options.GetGetPreferredAllocationAvailable()}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.o.Version == V137 {
		if k.store[c.resource] == nil {
			k.store[c.resource] = map[string]*endpoint{}
		}
		if k.store[c.resource][c.socket] != nil {
			return fmt.Errorf("the device plugin at %s is connected already", c.socket)
		}
		k.store[c.resource][c.socket] = e
	}
	k.endpoints[c.resource] = e
	return nil
}

// run reads the lists of one connection until it ends.
func (k *Kubelet) run(c *client) {
	k.read(c)
	k.o.Pause(Ended, c.resource)
	if k.ctx.Err() != nil {
		return
	}
	if current := k.current(c.resource, c.socket); current != nil {
		k.disconnect(current)
	}
}

func (k *Kubelet) read(c *client) {
	k.serverMu.Lock()
	conn := c.conn
	k.serverMu.Unlock()
	if conn == nil { // another's end has disconnected it
		return
	}
	stream, err := conn.ListAndWatch(k.ctx, &deviceapi.Empty{})
	if err != nil {
		return
	}
	for {
		k.unhung(k.ctx)
		list, err := stream.Recv()
		if err != nil {
			return
		}
		k.unhung(k.ctx)
		k.o.Pause(ListReceived, c.resource)
		if k.ctx.Err() != nil {
			return
		}
		k.receive(c.resource, list.GetDevices())
	}
}

// current returns the client to disconnect when a connection of a resource ends; nil for none. Up to v1.36 that is the newest of the
// resource.
func (k *Kubelet) current(resource, socket string) *client {
	k.serverMu.Lock()
	defer k.serverMu.Unlock()
	for _, c := range k.clients[resource] {
		if k.o.Version == V136 || c.socket == socket {
			return c
		}
	}
	return nil
}

// deregister forgets the clients of a resource: all up to v1.36, later those with the same socket.
func (k *Kubelet) deregister(c *client) {
	k.serverMu.Lock()
	defer k.serverMu.Unlock()
	k.clients[c.resource] = slices.DeleteFunc(k.clients[c.resource], func(o *client) bool {
		return k.o.Version == V136 || o.socket == c.socket
	})
}

// Drop disconnects the newest plugin of a resource, without a reason that the plugin knows.
func (k *Kubelet) Drop(resource string) {
	k.serverMu.Lock()
	all := k.clients[resource]
	k.serverMu.Unlock()
	if len(all) > 0 {
		k.disconnect(all[len(all)-1])
	}
}

func (k *Kubelet) disconnect(c *client) {
	k.deregister(c)
	k.o.Pause(Deregistered, c.resource)
	k.serverMu.Lock()
	conn := c.conn
	c.conn = nil
	k.serverMu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
	k.o.Pause(Closed, c.resource)
	k.disconnected(c)
}

// disconnected marks the endpoint as stopped, and the devices of a resource without another endpoint as unhealthy.
func (k *Kubelet) disconnected(c *client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.o.Version == V136 {
		if e := k.endpoints[c.resource]; e != nil {
			k.markUnhealthy(c.resource)
			e.stopped = k.o.Now()
		}
		return
	}
	endpoints := k.store[c.resource]
	e := endpoints[c.socket]
	if e == nil {
		return
	}
	e.stopped = k.o.Now()
	delete(endpoints, c.socket)
	if len(endpoints) == 0 {
		delete(k.store, c.resource)
		k.markUnhealthy(c.resource)
		return
	}
	// The real kubelet takes any of them.
	for _, socket := range sortedKeys(endpoints) {
		k.endpoints[c.resource] = endpoints[socket]
		return
	}
}

func (e *endpoint) expired(now time.Time) bool {
	return !e.stopped.IsZero() && now.Sub(e.stopped) > GracePeriod
}
