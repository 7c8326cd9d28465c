package kubeletmodel

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Sockets are the sockets of device plugins in memory. They work in a bubble of testing/synctest, and as fast as function calls. The
// zero value has none.
type Sockets struct {
	mu     sync.Mutex
	listen map[string]*Listener
}

// Listener is a device plugin that listens.
type Listener struct {
	sockets *Sockets
	path    string
	plugin  deviceapi.DevicePluginServer

	mu     sync.Mutex
	closed bool
	conns  map[*memoryConn]bool
}

// Listen lets a plugin listen at a path. A listener that is there already loses the path, as by unlink(2).
func (s *Sockets) Listen(path string, plugin deviceapi.DevicePluginServer) *Listener {
	l := &Listener{sockets: s, path: path, plugin: plugin, conns: map[*memoryConn]bool{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listen == nil {
		s.listen = map[string]*Listener{}
	}
	s.listen[path] = l
	return l
}

// Paths returns the paths with a listener, sorted.
func (s *Sockets) Paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sortedKeys(s.listen)
}

// Remove removes the path of a listener, whose connections stay.
func (s *Sockets) Remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listen, path)
}

// Dial connects to the listener at a path. It tries again each second until ctx ends, as the kubelet's gRPC does at first.
func (s *Sockets) Dial(ctx context.Context, path string) (Conn, error) {
	for {
		s.mu.Lock()
		l := s.listen[path]
		s.mu.Unlock()
		if l != nil {
			if c := l.accept(); c != nil {
				return c, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-time.After(time.Second):
		}
	}
}

func (l *Listener) accept() *memoryConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	c := &memoryConn{plugin: l.plugin, lost: make(chan struct{})}
	l.conns[c] = true
	return c
}

// Close ends the listener and its connections, and removes its path.
func (l *Listener) Close() {
	l.sockets.mu.Lock()
	if l.sockets.listen[l.path] == l {
		delete(l.sockets.listen, l.path)
	}
	l.sockets.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close()
	}
	clear(l.conns)
}

// memoryConn calls a plugin directly, with a goroutine for each call.
type memoryConn struct {
	plugin deviceapi.DevicePluginServer
	once   sync.Once
	lost   chan struct{}
}

var errLost = status.Error(codes.Unavailable, "the connection is closed")

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.lost) })
	return nil
}

func call[In, Out any](ctx context.Context, c *memoryConn, in In, f func(context.Context, In) (Out, error)) (Out, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		out Out
		err error
	}
	done := make(chan answer, 1)
	select {
	case <-c.lost:
	default:
		go func() {
			out, err := f(ctx, in)
			done <- answer{out, err}
		}()
	}
	var none Out
	select {
	case a := <-done:
		if a.err != nil {
			return none, status.Error(status.Code(a.err), a.err.Error())
		}
		return a.out, nil
	case <-c.lost:
		return none, errLost
	case <-ctx.Done():
		return none, status.FromContextError(ctx.Err()).Err()
	}
}

func (c *memoryConn) GetDevicePluginOptions(ctx context.Context, in *deviceapi.Empty, _ ...grpc.CallOption) (*deviceapi.DevicePluginOptions, error) {
	return call(ctx, c, in, c.plugin.GetDevicePluginOptions)
}

func (c *memoryConn) GetPreferredAllocation(
	ctx context.Context, in *deviceapi.PreferredAllocationRequest, _ ...grpc.CallOption,
) (*deviceapi.PreferredAllocationResponse, error) {
	return call(ctx, c, in, c.plugin.GetPreferredAllocation)
}

func (c *memoryConn) Allocate(ctx context.Context, in *deviceapi.AllocateRequest, _ ...grpc.CallOption) (*deviceapi.AllocateResponse, error) {
	return call(ctx, c, in, c.plugin.Allocate)
}

func (c *memoryConn) PreStartContainer(
	ctx context.Context, in *deviceapi.PreStartContainerRequest, _ ...grpc.CallOption,
) (*deviceapi.PreStartContainerResponse, error) {
	return call(ctx, c, in, c.plugin.PreStartContainer)
}

// GetInfo is of Info, for plugins that implement the server's side of it.
func (c *memoryConn) GetInfo(ctx context.Context) (*registerapi.PluginInfo, error) {
	p, ok := c.plugin.(registerapi.RegistrationServer)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "no registration service")
	}
	return call(ctx, c, &registerapi.InfoRequest{}, p.GetInfo)
}

// NotifyRegistrationStatus is of Info.
func (c *memoryConn) NotifyRegistrationStatus(ctx context.Context, s *registerapi.RegistrationStatus) error {
	p, ok := c.plugin.(registerapi.RegistrationServer)
	if !ok {
		return status.Error(codes.Unimplemented, "no registration service")
	}
	_, err := call(ctx, c, s, p.NotifyRegistrationStatus)
	return err
}

func (c *memoryConn) ListAndWatch(
	ctx context.Context, in *deviceapi.Empty, _ ...grpc.CallOption,
) (grpc.ServerStreamingClient[deviceapi.ListAndWatchResponse], error) {
	select {
	case <-c.lost:
		return nil, errLost
	default:
	}
	s := &memoryStream{conn: c, more: make(chan struct{}, 1), ended: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		select {
		case <-c.lost:
		case <-s.ctx.Done():
		case <-s.ended:
		}
		s.cancel()
	}()
	go func() {
		s.err = c.plugin.ListAndWatch(in, serverStream{s: s})
		close(s.ended)
	}()
	return s, nil
}

// memoryStream is a stream of lists: it keeps each until the kubelet reads it.
type memoryStream struct {
	grpc.ClientStream

	conn   *memoryConn
	ctx    context.Context //nolint:containedctx // the stream's own
	cancel context.CancelFunc
	ended  chan struct{} // the plugin has returned err
	err    error
	more   chan struct{}

	mu    sync.Mutex
	queue []*deviceapi.ListAndWatchResponse
}

func (s *memoryStream) take() *deviceapi.ListAndWatchResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	next := s.queue[0]
	s.queue = s.queue[1:]
	return next
}

// Recv returns the next list. Lists that were sent before the plugin returned arrive; those before the connection was lost need not.
func (s *memoryStream) Recv() (*deviceapi.ListAndWatchResponse, error) {
	for {
		select {
		case <-s.conn.lost:
			return nil, errLost
		default:
		}
		if next := s.take(); next != nil {
			return next, nil
		}
		select {
		case <-s.more:
		case <-s.conn.lost:
			return nil, errLost
		case <-s.ended:
			if next := s.take(); next != nil {
				return next, nil
			}
			if s.err != nil {
				return nil, s.err
			}
			return nil, io.EOF
		}
	}
}

// serverStream is the plugin's side of a memoryStream.
type serverStream struct {
	grpc.ServerStream

	s *memoryStream
}

func (s serverStream) Context() context.Context { return s.s.ctx }

func (s serverStream) Send(list *deviceapi.ListAndWatchResponse) error {
	if err := s.s.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	s.s.mu.Lock()
	s.s.queue = append(s.s.queue, list)
	s.s.mu.Unlock()
	select {
	case s.s.more <- struct{}{}:
	default:
	}
	return nil
}
