package cluster

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Fault is how a Proxy treats its connections.
type Fault int

// The faults of a Proxy.
const (
	// Pass forwards everything.
	Pass Fault = iota
	// Refuse refuses new connections and cuts open ones, like an API server that is not running.
	Refuse
	// Blackhole accepts connections and forwards nothing until the fault ends, like a network that drops packets.
	Blackhole
	// Slow delays all data by SlowBy.
	Slow
)

// SlowBy is the delay of Slow, in each direction.
const SlowBy = 500 * time.Millisecond

// Proxy is a TCP proxy with faults. It is safe for concurrent use.
type Proxy struct {
	// Address is the address of the proxy; the port never changes.
	Address string

	target   string
	received atomic.Int64

	mu       sync.Mutex
	fault    Fault
	changed  chan struct{} // closed at a change of fault
	listener net.Listener  // nil while refusing
	open     map[net.Conn]struct{}
	running  sync.WaitGroup
}

func startProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{target: target, Address: "127.0.0.1:0", changed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	Must(t, p.listen(t))
	p.Address = p.listener.Addr().String()
	t.Cleanup(func() {
		p.mu.Lock()
		p.set(Refuse)
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

// Set changes the fault. Open connections stay, except under Refuse.
func (p *Proxy) Set(t testing.TB, f Fault) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(f)
	if f != Refuse && p.listener == nil {
		Must(t, p.listen(t))
	}
}

// Cut ends every open connection, as a restarted load balancer does.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

// Received counts the bytes from the API server to the daemon, TLS included.
func (p *Proxy) Received() int64 { return p.received.Load() }

// set changes the fault; p.mu is held.
func (p *Proxy) set(f Fault) {
	p.fault = f
	close(p.changed)
	p.changed = make(chan struct{})
	if f == Refuse && p.listener != nil {
		p.listener.Close()
		p.listener = nil
		p.cut()
	}
}

// cut ends the open connections; p.mu is held.
func (p *Proxy) cut() {
	for c := range p.open {
		c.Close()
	}
}

// listen accepts connections until the listener is closed; p.mu is held, or p is not shared yet.
func (p *Proxy) listen(t testing.TB) (err error) {
	if p.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", p.Address); err != nil {
		return err
	}
	l := p.listener
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(c) })
		}
	})
	return nil
}

func (p *Proxy) serve(client net.Conn) {
	defer p.forget(client)
	if !p.remember(client) {
		return
	}
	p.clear()
	server, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		return // the client sees its connection end
	}
	defer p.forget(server)
	if !p.remember(server) {
		return
	}
	p.running.Go(func() {
		p.forward(server, client, nil)
		server.Close()
	})
	p.forward(client, server, &p.received)
}

const dialTimeout = 5 * time.Second

func (p *Proxy) remember(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = struct{}{}
	return p.fault != Refuse
}

func (p *Proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// forward copies until an end closes, and counts into n unless it is nil.
func (p *Proxy) forward(to, from net.Conn, n *atomic.Int64) {
	buf := make([]byte, 64<<10)
	for {
		got, err := from.Read(buf)
		if n != nil {
			n.Add(int64(got))
		}
		p.clear()
		if got > 0 {
			if _, err := to.Write(buf[:got]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				to.Close()
			}
			return
		}
	}
}

// clear waits until data may flow.
func (p *Proxy) clear() {
	for {
		p.mu.Lock()
		fault, changed := p.fault, p.changed
		p.mu.Unlock()
		switch fault {
		case Blackhole:
			<-changed
		case Slow:
			select {
			case <-changed:
			case <-time.After(SlowBy):
				return
			}
		default:
			return
		}
	}
}
