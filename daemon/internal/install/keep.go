package install

import (
	"context"
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/filewatch"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
)

const (
	// keepSettle is the pause between a change and the look at it: replacing a file takes several changes.
	keepSettle = time.Second
	// keepEvery is the pause between two looks without a change.
	keepEvery = 5 * time.Minute
	// hostNetworkFirst is the pause after the first failure of --host-network. It doubles up to keepEvery.
	hostNetworkFirst = 10 * time.Second
)

// Keep installs, and installs again after each change by somebody else, until ctx ends.
// An error ends it too: kubelet starts the process again, with a pause.
func (i *Installer) Keep(ctx context.Context) error {
	unlock, err := i.prepare()
	if err != nil {
		return err
	}
	defer unlock()
	services := &problem.Services{}
	services.Wake = func() {
		for _, found := range services.Problems() {
			fmt.Fprintf(i.Err, "multi-enid: watch what is installed: %s\n", found.Message)
		}
	}
	// Before the first look, so that no change is missed.
	watcher, err := filewatch.New(services, "files", i.folders()...)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes := make(chan struct{}, 1)
	go watcher.Run(ctx, func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	})
	all := true // the first run reports unchanged files too
	host := newKeptHostNetwork(&i.Host, i.Out, i.Err)
	soon := false // a look at a change is due; more changes do not put it off
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			if !soon {
				soon = true
				look.Reset(keepSettle)
			}
		case <-look.C:
			soon = false
			err := i.run(ctx, func(path, outcome string, changed bool) {
				if changed || all {
					fmt.Fprintf(i.Out, "%s: %s\n", path, outcome)
				}
			})
			if err != nil {
				return err
			}
			all = false
			look.Reset(host.run(ctx))
		}
	}
}
