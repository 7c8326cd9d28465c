package cli

import (
	"slices"
	"testing"
)

func TestNearest(t *testing.T) {
	commands := []string{"run", "status", "doctor", "install", "uninstall", "version"}
	for word, want := range map[string][]string{
		"stauts": {"status"}, "statu": {"status"}, "doc": {"doctor"}, "instal": {"install"}, "unistall": {"uninstall"}, "Version": {"version"}, "frobnicate": nil,
		"": nil, "x": nil,
	} {
		if got := Nearest(word, commands); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}} {
		if got := distance(tt.a, tt.b); got != tt.want || distance(tt.b, tt.a) != got {
			t.Errorf("%q, %q: %d, want %d both ways", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestOneOf(t *testing.T) {
	if err := OneOf("output", "json", "text", "json"); err != nil {
		t.Error(err)
	}
	if err := OneOf("output", "x", "table", "wide", "json"); err == nil || err.Error() != `--output "x": want table, wide or json` {
		t.Errorf("%v", err)
	}
}
