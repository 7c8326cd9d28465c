package cli

import (
	"strings"

	"github.com/spf13/pflag"
)

// Unset is the default of a flag whose empty value has a meaning.
const Unset = "\x00"

// ListVar defines a flag of several values. Help shows its default in the text, where it can be wrapped.
func ListVar(f *pflag.FlagSet, v *[]string, name string, value []string, usage string) {
	f.StringSliceVar(v, name, value, usage+" Separate them by commas. Defaults to "+strings.Join(value, ", ")+".")
	f.Lookup(name).DefValue = "[]"
}

// Values returns the values of all flags but help, in the syntax of the command line. It leaves out the flags that are Unset.
func Values(f *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	f.VisitAll(func(f *pflag.Flag) {
		value := f.Value.String()
		if f.Value.Type() == "stringSlice" {
			value = strings.TrimSuffix(strings.TrimPrefix(value, "["), "]")
		}
		if value != Unset && f.Name != "help" {
			all[f.Name] = value
		}
	})
	return all
}
