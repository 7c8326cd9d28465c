package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunFrom(t *testing.T) {
	names := []string{"TestA", "TestB", "TestC", "ok"}
	for _, tt := range []struct{ first, parts, want string }{
		{"TestA", "", "^(TestA|TestB|TestC|ok)$"},
		{"TestC", "/sub", "^(TestC|ok)$/sub"},
		{"TestD", "", ""},
	} {
		got, err := runFrom(tt.first, names, tt.parts)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("runFrom(%s) = %q, %v, want %q", tt.first, got, err, tt.want)
		}
	}
}

func TestDecodePools(t *testing.T) {
	for name, tt := range map[string]struct {
		config string
		want   []Pool
		err    string
	}{
		"object": {
			`{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"a","selectors":{"drivers":["ena"],"pciAddresses":["0000:00:06.0"]}}]}`,
			[]Pool{{"intel.com/a", []string{"ena"}, []string{"0000:00:06.0"}}}, "",
		},
		"list": {
			`{"resourceList":[{"resourcePrefix":"x.y","resourceName":"b","selectors":[` +
				`{"drivers":["ena"],"pciAddresses":["1"]},{"drivers":["vfio-pci"],"pciAddresses":["2"]}]}]}`,
			[]Pool{{"x.y/b", []string{"ena", "vfio-pci"}, []string{"1", "2"}}}, "",
		},
		"empty":        {`{"resourceList":[]}`, nil, "no resource"},
		"torn":         {`{"resourceList":[`, nil, "unexpected end"},
		"bad selector": {`{"resourceList":[{"resourceName":"b","selectors":7}]}`, nil, "selectors of b"},
	} {
		got, err := decodePools([]byte(tt.config))
		if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q (-want +got):\n%s", name, err, tt.err, diff)
		}
	}
}

func TestReplyOfAFailedPlugin(t *testing.T) {
	failed := errors.New("exit status 1")
	for _, tt := range []struct {
		stdout string
		code   int
		msg    string
	}{
		{`{"cniVersion":"1.1.0","code":101,"msg":"held","details":"by pod0"}`, 101, "held; by pod0"},
		{`{"cniVersion":"1.1.0","code":11,"msg":"not ready"}`, 11, "not ready"},
		{"", -1, "exit status 1"},
		{"panic: x", -1, "exit status 1"},
	} {
		var r Reply
		r.fail(failed, []byte(tt.stdout))
		if r.Code != tt.code || r.Msg != tt.msg {
			t.Errorf("%q: %d %q, want %d %q", tt.stdout, r.Code, r.Msg, tt.code, tt.msg)
		}
	}
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a/file": "content", "a/b/empty": ""} {
		Must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		Must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	Must(t, os.Symlink("file", filepath.Join(dir, "a/link")))
	socket, err := net.Listen("unix", filepath.Join(dir, "a/s"))
	Must(t, err)
	defer socket.Close()
	data, err := archive([]string{filepath.Join(dir, "a")})
	Must(t, err)
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		Must(t, err)
		content, err := io.ReadAll(r)
		Must(t, err)
		got[strings.TrimPrefix("/"+strings.TrimSuffix(h.Name, "/"), dir)] = fs.FileMode(h.Mode).String() + //nolint:gosec // permission bits
			" " + h.Linkname + string(content)
	}
	want := map[string]string{
		"/a": "-rwx------ ", "/a/b": "-rwx------ ", "/a/b/empty": "-rw------- ", "/a/file": "-rw------- content", "/a/link": "-rwxrwxrwx file",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
	if _, err := archive([]string{filepath.Join(dir, "gone")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("archive of nothing = %v", err)
	}
}
