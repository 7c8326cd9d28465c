package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// IPv6Conf is the folder with the IPv6 settings of links (ip-sysctl of the kernel),
// DefaultIPv6Conf or a mount of it. It shows the links of the calling thread's netns.
type IPv6Conf string

// DefaultIPv6Conf is the kernel's folder.
const DefaultIPv6Conf IPv6Conf = "/proc/sys/net/ipv6/conf"

// AcceptRA returns whether the link of that name accepts router advertisements: "0" never,
// "1" unless it forwards, "2" always. It is "" if the link has no IPv6 or does not exist.
func (c IPv6Conf) AcceptRA(name string) (string, error) { return c.read(name, "accept_ra") }

// Forwarding returns "1" if the link forwards IPv6 packets and "0" if not. It is "" if the
// link has no IPv6 or does not exist.
func (c IPv6Conf) Forwarding(name string) (string, error) { return c.read(name, "forwarding") }

func (c IPv6Conf) read(name, setting string) (string, error) {
	data, err := os.ReadFile(filepath.Join(string(c), name, setting))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read %s of link %s: %w", setting, name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// SetAcceptRA sets accept_ra of a link. It is no error if the link has no IPv6 or does not exist.
func (c IPv6Conf) SetAcceptRA(name, value string) error {
	f, err := os.OpenFile(c.path(name), os.O_WRONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("set accept_ra of link %s: %w", name, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set accept_ra of link %s to %s: %w", name, value, err)
	}
	return nil
}

func (c IPv6Conf) path(name string) string { return filepath.Join(string(c), name, "accept_ra") }
