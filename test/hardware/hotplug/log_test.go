package hotplug

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// checkLog wants each state logged once at its start and once at its end, and no other warning twice within a second.
func checkLog(t *testing.T, log string) {
	t.Helper()
	state, last := map[string]string{}, map[string]time.Time{}
	for line := range strings.Lines(log) {
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			continue // cut off when the daemon was killed
		}
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(fields["time"]))
		if err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if fields["msg"] == "multi-enid started" { // another life
			clear(state)
			clear(last)
		}
		if of, now := subject(fields); of != "" {
			if state[of] == now {
				t.Errorf("logged again though it goes on: %s", line)
			}
			state[of] = now
			continue
		}
		if fields["level"] == "info" {
			continue // an event, as often as it happens: a pod may take a link and give it back at once
		}
		delete(fields, "time")
		same := fmt.Sprint(fields)
		if was, ok := last[same]; ok && at.Sub(was) < time.Second {
			t.Errorf("logged twice within a second: %s", line)
		}
		last[same] = at
	}
}

// subject returns a line's object and state, "" for a line without a state.
func subject(fields map[string]any) (of, state string) {
	msg := fmt.Sprint(fields["msg"])
	switch msg {
	case "problem found", "problem is over":
		about := maps.Clone(fields)
		for _, k := range []string{"time", "msg", "level", "error"} {
			delete(about, k)
		}
		return fmt.Sprint("problem ", about), msg
	case "device changed its phase", "device left the inventory":
		if fields["eniID"] != "" {
			return fmt.Sprint("device ", fields["eniID"]), fmt.Sprint(fields["phase"])
		}
	case "device plugin config written":
		return msg, fmt.Sprint(fields["hash"])
	}
	return "", ""
}
