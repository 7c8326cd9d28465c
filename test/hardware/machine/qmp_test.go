package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func qemu(t *testing.T, answer func(command, id string) []string) *qmp {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		fmt.Fprintln(theirs, `{"QMP": {"version": {}, "capabilities": ["oob"]}}`)
		for in := bufio.NewScanner(theirs); in.Scan(); {
			var r struct {
				Execute string          `json:"execute"`
				ID      json.RawMessage `json:"id"`
			}
			if err := json.Unmarshal(in.Bytes(), &r); err != nil {
				return
			}
			for _, line := range answer(r.Execute, string(r.ID)) {
				fmt.Fprintln(theirs, line)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	q, err := newQMP(ctx, ours)
	must(t, err)
	return q
}

func ok(id string) string { return `{"return": {}, "id": ` + id + `}` }

func TestQMP(t *testing.T) {
	deleted := func(device string) string {
		return `{"event": "DEVICE_DELETED", "data": {"device": "` + device + `", "path": "/machine/x"}, "timestamp": {"seconds": 1, "microseconds": 2}}`
	}
	for name, tt := range map[string]struct {
		answer func(id string) []string // to device_del
		want   string
	}{
		"event after the reply":  {func(id string) []string { return []string{ok(id), deleted("other"), deleted("nic")} }, ""},
		"event before the reply": {func(id string) []string { return []string{deleted("nic"), ok(id)} }, ""},
		"refused": {func(id string) []string {
			return []string{`{"id": ` + id + `, "error": {"class": "DeviceNotFound", "desc": "Device 'nic' not found"}}`}
		}, "Device 'nic' not found"},
		"guest refuses": {func(id string) []string {
			return []string{ok(id), `{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "nic", "path": "/machine/x"}}`}
		}, "refuses"},
		"guest does not let go": {func(id string) []string { return []string{ok(id), deleted("other")} }, "has not let go of nic"},
		"not JSON":              {func(string) []string { return []string{"}"} }, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			q := qemu(t, func(command, id string) []string {
				if command == "device_del" {
					return tt.answer(id)
				}
				return []string{ok(id)}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			err := q.unplug(ctx, "nic")
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("unplug = %v, want %q", err, tt.want)
			}
		})
	}
}

// Replies come in any order.
func TestQMPConcurrent(t *testing.T) {
	var held []string
	q := qemu(t, func(command, id string) []string {
		switch command {
		case "first":
			held = append(held, ok(id))
			return nil
		case "second":
			return append([]string{ok(id)}, held...)
		}
		return []string{ok(id)}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	first := make(chan error, 1)
	go func() { first <- q.do(ctx, "first", nil) }()
	for len(first) == 0 {
		must(t, q.do(ctx, "second", nil))
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
}
