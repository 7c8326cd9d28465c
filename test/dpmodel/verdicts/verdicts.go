// Package verdicts has configs with the verdicts of the real SR-IOV network device plugin. verdicts.json
// and served.json name the release and the machine.
package verdicts

import (
	_ "embed"
	"encoding/json"
	"testing"
)

var (
	//go:embed verdicts.json
	file []byte
	//go:embed served.json
	served []byte
)

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

// Content is the config's text.
func (c Case) Content() []byte {
	if c.Config != nil {
		return c.Config
	}
	return []byte(c.Text)
}

// Runs says whether the plugin stayed up.
func (c Case) Runs() bool { return c.Verdict == "runs" }

// All returns the cases of a machine where only an empty selector matches, and where no socket can be made.
func All(t testing.TB) []Case {
	t.Helper()
	return read(t, file, 72)
}

// Served returns the cases of a machine with the kubelet's folders and one network
// function: 0000:00:03.0, vendor 1af4, device 1041, driver virtio-pci, no VF.
func Served(t testing.TB) []Case {
	t.Helper()
	return read(t, served, 26)
}

func read(t testing.TB, file []byte, atLeast int) []Case {
	t.Helper()
	var all struct{ Cases []Case }
	if err := json.Unmarshal(file, &all); err != nil || len(all.Cases) < atLeast {
		t.Fatalf("%d cases, want %d or more; %v", len(all.Cases), atLeast, err)
	}
	return all.Cases
}
