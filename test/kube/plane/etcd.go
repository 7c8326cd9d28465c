package plane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const etcdTimeout = 10 * time.Second

// Compact deletes every old revision of every object. After a restart of the API server, whose watch cache
// still has them until then, an older watch gets 410 Gone.
func (p *Plane) Compact(ctx context.Context) error {
	var status struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	if err := etcdCall(ctx, http.MethodPost, "/v3/maintenance/status", struct{}{}, &status); err != nil {
		return err
	}
	return etcdCall(ctx, http.MethodPost, "/v3/kv/compaction", map[string]any{"revision": status.Header.Revision, "physical": true}, nil)
}

// etcdCall calls etcd's JSON gateway (etcd documentation, "gRPC gateway").
func etcdCall(ctx context.Context, method, path string, send, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	body, err := json.Marshal(send)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, etcdURL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{}).Do(r)
	if err != nil {
		return fmt.Errorf("call etcd: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("call etcd: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("call etcd: %s %s: %s: %s", method, path, resp.Status, data)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}
