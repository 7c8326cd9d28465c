// Package verdicts has configs, each with the verdict of the real SR-IOV network
// device plugin; verdicts.json says which release, and where.
package verdicts

import (
	_ "embed"
	"encoding/json"
	"testing"
)

//go:embed verdicts.json
var file []byte

// Case is one config and its verdict.
type Case struct {
	Case string
	// Config is the config where it is JSON, else Text.
	Config json.RawMessage
	Text   string
	// Args are the plugin's arguments.
	Args []string
	// Verdict is "runs", or "exits" with the status.
	Verdict string
}

// Content is the config as the file has it.
func (c Case) Content() []byte {
	if c.Config != nil {
		return c.Config
	}
	return []byte(c.Text)
}

// Runs says whether the plugin stayed up.
func (c Case) Runs() bool { return c.Verdict == "runs" }

// All returns every case.
func All(t testing.TB) []Case {
	t.Helper()
	var all struct{ Cases []Case }
	if err := json.Unmarshal(file, &all); err != nil || len(all.Cases) < 72 {
		t.Fatalf("verdicts.json: %d cases, %v", len(all.Cases), err)
	}
	return all.Cases
}
