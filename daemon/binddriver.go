package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
		Args:   noArgs,
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
// that asking for the one that was inherited changes nothing.
func holdsLock(fd int) error {
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return errors.New("the claim lock of the device is another's; this command is only for multi-enid run to start")
	case err != nil:
		return fmt.Errorf("descriptor %d is no claim lock: %w; this command is only for multi-enid run to start", fd, err)
	}
	return nil
}
