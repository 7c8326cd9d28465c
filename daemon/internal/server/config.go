package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// configPath is where the socket has the Config.
const configPath = "/v1/config"

// errNotServed is the answer to a path that the daemon does not know.
var errNotServed = errors.New("the daemon does not know the question")

// ErrNoConfig says that the daemon answers, but is of a version that does not tell its
// Config.
var ErrNoConfig = errors.New("the running multi-enid is of a version that does not tell its flags")

// Config is how the daemon was started. It has no secrets: no flag takes one.
type Config struct {
	Version string `json:"version"`
	// Flags are the values of all flags by name, as they can be given again.
	Flags map[string]string `json:"flags"`
}

// AskConfig returns the Config of the daemon that listens on the socket, or
// ErrNoConfig. Only ctx bounds how long that takes.
func AskConfig(ctx context.Context, socket string) (Config, error) {
	body, err := ask(ctx, socket, configPath)
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
