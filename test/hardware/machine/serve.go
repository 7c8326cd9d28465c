package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// hotplugTime bounds one request. The guest's release of the device takes most of it.
const hotplugTime = 30 * time.Second

func (h *host) serve(ctx context.Context, qmpListener, requests net.Listener) error {
	control, err := accept(ctx, qmpListener)
	if err != nil {
		return fmt.Errorf("wait for QEMU: %w", err)
	}
	port, err := accept(ctx, requests)
	if err != nil {
		return fmt.Errorf("wait for QEMU: %w", err)
	}
	defer port.Close()
	q, err := newQMP(ctx, control)
	if err != nil {
		return err
	}
	defer control.Close()
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	s := server{host: h, qmp: q, port: port}
	defer s.pending.Wait()
	in := bufio.NewReader(port)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil // the machine has ended, and says itself how
		}
		var r protocol.Request
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("decode the guest's request: %w", err)
		}
		// A guest may do several things at once, as EC2 does.
		s.pending.Go(func() { s.answer(ctx, r) })
	}
}

func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	if u, ok := l.(*net.UnixListener); ok {
		if err := u.SetDeadline(time.Now().Add(connectTime)); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	return l.Accept()
}

type server struct {
	*host
	qmp     *qmp
	pending sync.WaitGroup

	mu   sync.Mutex // of port, and of the host's nics and next
	port net.Conn
}

func (s *server) answer(ctx context.Context, r protocol.Request) {
	ctx, cancel := context.WithTimeout(ctx, hotplugTime)
	defer cancel()
	reply := protocol.Reply{Number: r.Number}
	if err := s.perform(ctx, r); err != nil {
		reply.Error = err.Error()
	}
	text, err := json.Marshal(reply)
	if err != nil {
		text = fmt.Appendf(nil, `{"number":%d,"error":"the reply cannot be encoded"}`, r.Number)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port.Write(append(text, '\n')) //nolint:errcheck,gosec // fails when the machine has ended, which is told elsewhere
}

func (s *server) perform(ctx context.Context, r protocol.Request) error {
	switch r.Op {
	case protocol.Attach:
		return s.attach(ctx, NIC{ID: r.ID, Model: E1000E, MAC: r.MAC, Slot: r.Slot})
	case protocol.Detach:
		return s.detach(ctx, r.ID)
	case protocol.Reboot:
		return s.reboot(r)
	case protocol.Record:
		return record(r.Name, r.Data)
	}
	return fmt.Errorf("no request %q", r.Op)
}

func (s *server) attach(ctx context.Context, n NIC) error {
	if err := s.qmp.do(ctx, "netdev_add", map[string]any{"type": "hubport", "id": n.wire(), "hubid": 0}); err != nil {
		return err
	}
	if err := s.qmp.do(ctx, "device_add", n.device()); err != nil {
		return errors.Join(err, s.qmp.do(ctx, "netdev_del", map[string]any{"id": n.wire()}))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nics = append(s.nics, n)
	return nil
}

func (s *server) detach(ctx context.Context, id string) error {
	if err := s.qmp.unplug(ctx, id); err != nil {
		return err
	}
	s.mu.Lock()
	s.nics = slices.DeleteFunc(s.nics, func(n NIC) bool { return n.ID == id })
	s.mu.Unlock()
	return s.qmp.do(ctx, "netdev_del", map[string]any{"id": NIC{ID: id}.wire()})
}

// reboot makes the machine boot again after this boot, with the NICs plugged in now, in other slots if r moves them.
func (s *server) reboot(r protocol.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	nics := slices.Clone(s.nics)
	for id, slot := range r.Moves {
		i := slices.IndexFunc(nics, func(n NIC) bool { return n.ID == id })
		if i < 0 {
			return fmt.Errorf("move NIC %s: it is not plugged in", id)
		}
		nics[i].Slot = slot
	}
	s.nics, s.next = nics, &r
	return nil
}

// record writes a file under -update. Its name is relative to the test's folder, and stays below the test folder.
func record(name string, data []byte) error {
	update := flag.Lookup("update")
	if update == nil || update.Value.String() != "true" {
		return nil
	}
	repo, err := nstest.Repo()
	if err != nil {
		return err
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(path, filepath.Join(repo, "test")+"/") {
		return fmt.Errorf("record %q: the path must stay in the repository's test folder", name)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
