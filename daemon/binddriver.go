package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
)

// bindDriverCommand is what multi-enid run starts to change the driver of a
// device. It is of no use to people: without the device's claim lock pods and
// daemon would not know.
func (p program) bindDriverCommand() *cobra.Command {
	return &cobra.Command{
		Use:    driver.Command,
		Short:  "Carry out one order of multi-enid run, read from standard input",
		Hidden: true,
		Args:   cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bindDriver(cmd.InOrStdin())
		},
	}
}

func bindDriver(stdin io.Reader) error {
	order, err := driver.DecodeOrder(stdin)
	if err != nil {
		return err
	}
	if err := holdsLock(driver.LockFD); err != nil {
		return err
	}
	return driver.Execute(order)
}

// holdsLock makes sure of the claim lock. A lock belongs to the open file, so
// that asking for the one that was inherited changes nothing. What was not
// inherited has close-on-exec: the runtime of Go opens files of its own.
func holdsLock(fd int) error {
	const hint = "this command is only for multi-enid run to start"
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return fmt.Errorf("descriptor %d is no claim lock; %s", fd, hint)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("the claim lock of the device is another's; " + hint)
	}
	if err != nil {
		return fmt.Errorf("descriptor %d is no claim lock: %w; %s", fd, err, hint)
	}
	return nil
}
