// Command demo shows the main job of the project on this machine: no root, no cluster, no AWS. It makes a node of
// namespaces, tells the story with real commands and their real output, checks every step, and leaves nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/demo/terminal"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	insideEnv   = "MULTI_ENI_DEMO_INSIDE"
	demoTimeout = 2 * time.Minute
)

func main() {
	if err := demo(); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func demo() error {
	ctx, cancel := context.WithTimeout(context.Background(), demoTimeout)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(os.Args) > 1:
		err := terminal.Look(ctx, os.Stdout, os.Args[1:])
		if errors.Is(err, terminal.ErrUsage) {
			return fmt.Errorf("%w\nusage: demo                          tell the story\n%s", err, fmt.Sprintf(terminal.Usage, "demo"))
		}
		return err
	case os.Getenv(insideEnv) != "":
		return inside(ctx)
	}
	return outside(ctx)
}

func outside(ctx context.Context) error {
	cmd := nstest.Command(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	err := cmd.Run()
	if denied := nstest.Denied(err); denied != nil {
		return fmt.Errorf("%w; try: sudo make demo", denied)
	}
	if err != nil {
		return fmt.Errorf("the story did not hold: %w", err)
	}
	return nil
}

func inside(ctx context.Context) error {
	if err := nstest.Prepare(); err != nil {
		return err
	}
	s, err := newStage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.tell()
}
