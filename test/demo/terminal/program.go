package terminal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Program is one that tells a story without arguments, and looks at it with some. It needs no root.
type Program struct {
	// Name is its name, and the make target that runs it.
	Name string
	// Timeout bounds the story.
	Timeout time.Duration
	// Tell tells the story, in namespaces of its own.
	Tell func(ctx context.Context) error
	// Other runs further commands, which Usage explains; ErrUsage for none. It may be nil.
	Other func(ctx context.Context, args []string) error
	Usage string
}

// insideEnv says that a Program runs in its namespaces.
const insideEnv = "MULTI_ENI_DEMO_INSIDE"

// Main runs the program to its end.
func (p Program) Main() {
	if err := p.run(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(1)
	}
}

func (p Program) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.Timeout)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(os.Args) > 1:
		return p.look(ctx, os.Args[1:])
	case os.Getenv(insideEnv) != "":
		return p.Tell(ctx)
	}
	cmd := nstest.Command(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	err := cmd.Run()
	if denied := nstest.Denied(err); denied != nil {
		return fmt.Errorf("%w; try: sudo make %s", denied, p.Name)
	}
	if err != nil {
		return fmt.Errorf("the story did not hold: %w", err)
	}
	return nil
}

func (p Program) look(ctx context.Context, args []string) error {
	err := ErrUsage
	if p.Other != nil {
		err = p.Other(ctx, args)
	}
	if errors.Is(err, ErrUsage) {
		err = look(ctx, os.Stdout, args)
	}
	if errors.Is(err, ErrUsage) {
		return fmt.Errorf("%w\nusage: %-*s tell the story\n%s%s", err, len(p.Name)+len(" pod NAME address IFNAME "), p.Name, p.Usage, fmt.Sprintf(usage, p.Name))
	}
	return err
}
