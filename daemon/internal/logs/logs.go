// Package logs makes the log of a program that runs for long, as its flags say.
package logs

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

// Flags are --log-level and --log-format.
type Flags struct{ level, format string }

// Add defines the flags.
func (l *Flags) Add(f *pflag.FlagSet) {
	f.StringVar(&l.level, "log-level", "info", "Least `level` to log: debug, info, warning or error.")
	f.StringVar(&l.format, "log-format", "text", "`Format` of the log: text or json.")
}

// Complete has shells complete the flags.
func (*Flags) Complete(cmd *cobra.Command) {
	cli.Offer(cmd, "log-level", "debug", "info", "warning", "error")
	cli.Offer(cmd, "log-format", "text", "json")
}

// New returns a log that writes to out. The error has all faults of the flags; the log is usable nevertheless.
func (l *Flags) New(out io.Writer) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(out)
	log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	if l.format == "json" {
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	}
	parsed, err := logrus.ParseLevel(l.level)
	if err != nil {
		parsed, err = logrus.InfoLevel, fmt.Errorf("--log-level %q: want debug, info, warning or error", l.level)
	}
	log.SetLevel(parsed)
	return log, errors.Join(err, cli.OneOf("log-format", l.format, "text", "json"))
}
