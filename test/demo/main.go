// Command demo shows the main job of the project on this machine: no root, no cluster, no AWS. It makes a node of
// namespaces, tells the story with real commands and their real output, checks every step, and leaves nothing.
package main

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/demo/terminal"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func main() {
	terminal.Program{Name: "demo", Timeout: 2 * time.Minute, Tell: tell}.Main()
}

func tell(ctx context.Context) error {
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
