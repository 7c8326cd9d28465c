package driver

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestDecodeOrder(t *testing.T) {
	want := Order{Address: nic, Instance: 4653, Driver: vfioPCI, LoadModule: true, UnsafeNoIOMMU: true, Sysfs: "/host/sys", Modules: "/host"}
	data, err := json.Marshal(want)
	must(t, err)
	got, err := DecodeOrder(strings.NewReader(string(data) + "\n"))
	must(t, err)
	same(t, "order", want, got)

	const valid = `{"address":"0000:00:06.0","driver":"vfio-pci"`
	for name, tt := range map[string]struct{ input, want string }{
		"nothing":           {"", "EOF"},
		"no JSON":           {"vfio-pci", "invalid character"},
		"no object":         {"[]", "cannot unmarshal"},
		"unknown field":     {valid + `,"force":true}`, `unknown field "force"`},
		"two orders":        {valid + "}" + valid + "}", "something follows"},
		"no address":        {`{"driver":"vfio-pci"}`, `address ""`},
		"short address":     {`{"address":"00:06.0"}`, "00:06.0"},
		"address as a path": {`{"address":"../../0000:00:06.0"}`, "PCI address"},
		"driver as a path":  {`{"address":"0000:00:06.0","driver":"../ena"}`, `"../ena"`},
		"driver with space": {`{"address":"0000:00:06.0","driver":"ena "}`, `"ena "`},
		"driver in capital": {`{"address":"0000:00:06.0","driver":"ENA"}`, `"ENA"`},
		"endless driver":    {`{"address":"0000:00:06.0","driver":"` + strings.Repeat("a", 32) + `"}`, "lower-case letters"},
		"relative sysfs":    {valid + `,"sysfs":"sys"}`, `sysfs "sys"`},
		"relative modules":  {valid + `,"modules":"."}`, `modules "."`},
		"endless":           {valid + strings.Repeat(" ", maxOrder), "more than"},
	} {
		if o, err := DecodeOrder(strings.NewReader(tt.input)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want %q", name, o, err, tt.want)
		}
	}
}

// FuzzDecodeOrder: a valid order names one function, at most one driver, and no path besides its own fields.
func FuzzDecodeOrder(f *testing.F) {
	for _, s := range []string{
		`{"address":"0000:00:06.0","driver":"vfio-pci","loadModule":true,"unsafeNoIOMMU":true,"sysfs":"/sys","modules":"/"}`,
		`{"address":"0000:00:06.0","driver":""}`, `{"address":"../..","driver":".."}`, `{}`, `{"address":null}`, `{"ADDRESS":"0000:00:06.0"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := DecodeOrder(strings.NewReader(s))
		if err != nil {
			return
		}
		if o.Address == "" || strings.ContainsAny(o.Address.String()+o.Driver, "/ \n\x00") || strings.Contains(o.Driver, ".") {
			t.Errorf("%q is %+v", s, o)
		}
		data, err := json.Marshal(o)
		must(t, err)
		if again, err := DecodeOrder(strings.NewReader(string(data))); err != nil || again != o {
			t.Errorf("%q is %+v, and then %+v, %v", s, o, again, err)
		}
	})
}
