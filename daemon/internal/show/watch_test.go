package show

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWatch: a later look is printed if it differs, also an error. The end of the context is no error.
func TestWatch(t *testing.T) {
	looks := []any{"one\n", "one\n", "two\n", errors.New("no inventory"), errors.New("no inventory"), "two\n", "half", context.Canceled}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		next := 0
		begun := time.Now()
		err := Watch(ctx, &out, time.Second, func(w io.Writer) error {
			look := looks[next]
			next++
			switch look := look.(type) {
			case string:
				_, err := io.WriteString(w, look)
				return err
			case error:
				if errors.Is(look, context.Canceled) {
					cancel()
					_, _ = io.WriteString(w, "must not be shown") // a Buffer takes all
				}
				return look
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff("one\n\ntwo\n\nno inventory\n\ntwo\n\nhalf", out.String()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if took := time.Since(begun); took != 7*time.Second {
			t.Errorf("8 looks took %v; want one a second", took)
		}
	})
}

func TestWatchCannotBegin(t *testing.T) {
	want := errors.New("no inventory")
	var out bytes.Buffer
	if err := Watch(t.Context(), &out, time.Hour, func(io.Writer) error { return want }); !errors.Is(err, want) || out.Len() > 0 {
		t.Errorf("got %v and %q", err, &out)
	}
}
