package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// qmp is a client of the QEMU Machine Protocol (docs/interop/qmp-spec.rst), safe for concurrent use.
type qmp struct {
	conn net.Conn

	writing sync.Mutex
	mu      sync.Mutex
	number  int
	waiting map[int]chan message // replies, by request
	events  map[chan message]bool
	ended   error // why nothing more will come; nil while it may
	done    chan struct{}
}

type message struct {
	ID     int             `json:"id"`
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Device string `json:"device"`
	} `json:"data"`
}

func newQMP(ctx context.Context, conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, waiting: map[int]chan message{}, events: map[chan message]bool{}, done: make(chan struct{})}
	go q.read()
	if err := q.do(ctx, "qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return q, nil
}

func (q *qmp) read() {
	in := bufio.NewScanner(q.conn)
	in.Buffer(nil, 1<<20)
	var err error
	for err == nil && in.Scan() {
		var m message
		if err = json.Unmarshal(in.Bytes(), &m); err == nil {
			q.dispatch(m)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = errors.Join(errors.New("QEMU has closed the connection"), err, in.Err())
	close(q.done)
}

func (q *qmp) dispatch(m message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case m.Event != "":
		for c := range q.events {
			select {
			case c <- m:
			default: // nobody waits for that many
			}
		}
	case m.QMP == nil:
		if c, ok := q.waiting[m.ID]; ok {
			c <- m
			delete(q.waiting, m.ID)
		}
	}
}

func (q *qmp) do(ctx context.Context, command string, arguments map[string]any) error {
	c := make(chan message, 1)
	q.mu.Lock()
	q.number++
	number := q.number
	q.waiting[number] = c
	q.mu.Unlock()
	request := map[string]any{"execute": command, "id": number}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	q.writing.Lock()
	_, err = q.conn.Write(append(text, '\n'))
	q.writing.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-c:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", command, m.Error.Desc)
		}
		return nil
	case <-q.done:
		return fmt.Errorf("%s: %w", command, q.ended)
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer from QEMU: %w", command, ctx.Err())
	}
}

func (q *qmp) unplug(ctx context.Context, id string) error {
	events := make(chan message, 64)
	q.mu.Lock()
	q.events[events] = true
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.events, events)
	}()
	if err := q.do(ctx, "device_del", map[string]any{"id": id}); err != nil {
		return err
	}
	for {
		select {
		case m := <-events:
			if m.Data.Device != id {
				continue
			}
			switch m.Event {
			case "DEVICE_DELETED":
				return nil
			case "DEVICE_UNPLUG_GUEST_ERROR":
				return fmt.Errorf("device_del: the guest refuses to let go of %s", id)
			}
		case <-q.done:
			return fmt.Errorf("device_del: %w", q.ended)
		case <-ctx.Done():
			return fmt.Errorf("device_del: the guest has not let go of %s: %w", id, ctx.Err())
		}
	}
}
