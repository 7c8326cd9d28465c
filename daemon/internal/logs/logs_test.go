package logs

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestNew(t *testing.T) {
	for _, tt := range []struct {
		args  []string
		want  string
		fault []string
	}{
		{nil, `level=info msg=well`, nil},
		{[]string{"--log-format=json"}, `"msg":"well"`, nil},
		{[]string{"--log-level=error"}, ``, nil},
		{[]string{"--log-level=loud", "--log-format=xml"}, `level=info msg=well`, []string{`--log-level "loud"`, `--log-format "xml"`}},
	} {
		var l Flags
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		l.Add(set)
		if err := set.Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		log, err := l.New(&out)
		log.Info("well")
		if got := out.String(); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%q: %q, want %q", tt.args, got, tt.want)
		}
		if (err != nil) != (tt.fault != nil) {
			t.Errorf("%q: %v", tt.args, err)
		}
		for _, f := range tt.fault {
			if err == nil || !strings.Contains(err.Error(), f) {
				t.Errorf("%q: %v, want %s in it", tt.args, err, f)
			}
		}
	}
}
