package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// The paths that the socket serves: a Status and a Config, as JSON.
const (
	StatusPath = "/v1/status"
	ConfigPath = "/v1/config"
)

const (
	// maxAnswer bounds, in bytes, an answer that is read: some thousand devices.
	maxAnswer = 16 << 20
	// answerTimeout bounds a question to the daemon, which answers from memory.
	answerTimeout = 2 * time.Second
)

var (
	// ErrNoConfig says that the daemon answers, but is of a version without a Config.
	ErrNoConfig = errors.New("the running multi-enid is of a version that does not tell its flags")

	errNotServed = errors.New("the daemon does not know the question")
	errNotStatus = errors.New("answer is not a status")
)

// Config tells how the daemon was started. It has no secrets: no flag takes one.
type Config struct {
	Version string `json:"version"`
	// Flags are the values of all flags by name, in the syntax of the command line.
	Flags map[string]string `json:"flags"`
}

// AskConfig returns the Config of the daemon that listens on the socket, or ErrNoConfig.
func AskConfig(ctx context.Context, socket string) (Config, error) {
	body, err := ask(ctx, socket, ConfigPath)
	if errors.Is(err, errNotServed) {
		return Config{}, ErrNoConfig
	}
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := json.Unmarshal(body, &c); err != nil {
		return Config{}, fmt.Errorf("decode daemon's answer: %w", err)
	}
	return c, nil
}

// Ask returns the Status of the daemon that listens on the socket. Fields of a later version are ignored.
func Ask(ctx context.Context, socket string) (Status, error) {
	body, err := ask(ctx, socket, StatusPath)
	if err != nil {
		return Status{}, err
	}
	return decode(body)
}

func decode(body []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(body, &s); err != nil {
		return Status{}, fmt.Errorf("decode daemon's answer: %w", err)
	}
	if s.Inventory.NodeName == "" || s.Live == nil {
		return Status{}, fmt.Errorf("decode daemon's answer: %w", errNotStatus)
	}
	return s, nil
}

// Running says whether a daemon answers on the socket. An error means that it is not known.
func Running(ctx context.Context, socket string) (bool, error) {
	_, err := Ask(ctx, socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) { // a killed daemon leaves its socket
		return false, nil
	}
	return err == nil, err
}

func ask(ctx context.Context, socket, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return Dial(ctx, socket) },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://multi-enid"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask daemon: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask daemon: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read daemon's answer: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return body, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("ask daemon: %w", errNotServed)
	}
	return nil, fmt.Errorf("ask daemon: %s: %.200q", resp.Status, body)
}
