package controller

import "github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"

// said remembers the last text about each subject, so that nothing is told twice in a row.
type said map[string]string

// once is true if the text about the subject is new.
func (s said) once(subject, text string) bool {
	if last, ok := s[subject]; ok && last == text {
		return false
	}
	s[subject] = text
	return true
}

// forget makes the next text new; it is false if there was none.
func (s said) forget(subject string) bool {
	_, ok := s[subject]
	delete(s, subject)
	return ok
}

func (l *loop) tell(warning bool, nodeENI, uid, reason, message string) {
	l.Cluster.Tell(fleet.Event{NodeENI: nodeENI, UID: uid, Warning: warning, Reason: reason, Message: message})
}
