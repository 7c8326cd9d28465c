package status

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the name of the status socket, in the folder of the inventory.
const SocketName = "multi-enid.sock"

// Socket returns the path of the socket of the daemon that writes the inventory.
func Socket(inventory string) string { return filepath.Join(filepath.Dir(inventory), SocketName) }

const dialTimeout = time.Second

// Dial connects to a socket. Its path may be of any length.
func Dial(ctx context.Context, path string) (conn net.Conn, err error) {
	err = WithShortName(path, func(name string) error {
		conn, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", name)
		return err
	})
	return conn, err
}

// WithShortName calls f with a name for path that fits into a socket's address, which has
// at most 107 bytes (unix(7)). Its folder must exist.
func WithShortName(path string, f func(name string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // it was only named
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
