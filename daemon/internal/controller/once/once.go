// Package once remembers the last text about each subject, so that nothing is told twice in a row.
package once

import (
	"fmt"
	"hash/maphash"
)

var seed = maphash.MakeSeed()

// Hash of the same values is the same in this process. It takes little room where thousands are remembered.
func Hash(values ...any) uint64 { return maphash.String(seed, fmt.Sprint(values...)) }

// Memory has the last texts; the zero Memory has none. It must not be used concurrently.
type Memory struct{ last map[string]string }

// Once is true if the text about the subject is new.
func (m *Memory) Once(subject, text string) bool {
	if last, ok := m.last[subject]; ok && last == text {
		return false
	}
	if m.last == nil {
		m.last = map[string]string{}
	}
	m.last[subject] = text
	return true
}

// Forget makes the next text new; it is false if there was none.
func (m *Memory) Forget(subject string) bool {
	_, ok := m.last[subject]
	delete(m.last, subject)
	return ok
}
