package dpmodel

// TB is the used part of testing.TB.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// Judged returns a function to call with each written config. The test fails on a config with which the plugin would
// not run on the machine, as it is then, under one of the prefixes; without prefixes the default counts.
func Judged(t TB, machine func() []Device, prefixes func() []string) func(content []byte) {
	return func(content []byte) {
		t.Helper()
		all := prefixes()
		if len(all) == 0 {
			all = []string{DefaultPrefix}
		}
		for _, prefix := range all {
			if v := Judge(content, machine(), "-resource-prefix="+prefix); !v.Runs() {
				t.Errorf("the device plugin with prefix %s would not run: %+v, on the new config:\n%s", prefix, v, content)
			}
		}
	}
}
