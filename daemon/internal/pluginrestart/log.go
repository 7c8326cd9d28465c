package pluginrestart

import "github.com/sirupsen/logrus"

// transitions logs each state of the device plugin when it begins and when it ends.
type transitions struct {
	out logrus.FieldLogger
	// failed: the last restart failed. missing: there is no device plugin. unseen: the last
	// look failed.
	failed, missing, unseen bool
	// served is the hash of the config that was last logged as served.
	served string
}

// restartFailed logs the first of several failures.
func (t *transitions) restartFailed(err error) {
	if !t.failed {
		t.out.WithError(err).Warn("device plugin restart failed, trying again")
	}
	t.failed = true
}

// serves logs a new config, a restart, or the end of failures.
func (t *transitions) serves(report PluginReport, hash string) {
	news := hash != t.served || t.failed || len(report.Deleted) > 0
	if t.served, t.failed = hash, false; !news {
		return
	}
	fields := logrus.Fields{"pods": report.Pods, "config": hash}
	if len(report.Deleted) > 0 {
		fields["deleted"] = report.Deleted
	}
	t.out.WithFields(fields).Info("device plugin serves its config")
}

func (t *transitions) pluginMissing(missing bool) {
	switch {
	case missing && !t.missing:
		t.out.Info("no device plugin on this node; one that comes reads the config as it is")
	case !missing && t.missing:
		t.out.Info("device plugin found")
	}
	t.missing = missing
}

func (t *transitions) lookFailed(failed bool, err error) {
	switch {
	case failed && !t.unseen:
		t.out.WithError(err).Warn("device plugin cannot be looked for, trying again")
	case !failed && t.unseen:
		t.out.Info("device plugin can be looked for again")
	}
	t.unseen = failed
}
