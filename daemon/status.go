package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (p program) statusCommand(ctx context.Context) *cobra.Command {
	var c statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the node's devices, the pods that have them, and all problems",
		Long: `Show the devices of this node, the pods that have them, and all problems.

status asks the running daemon by its socket, which is beside the inventory. If no
daemon answers, status reads the files on the node.`,
		Example: `  multi-enid status
  multi-enid status --output wide
  multi-enid status --watch`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := cli.OneOf("output", c.output, outputs()...); err != nil {
				return err
			}
			if c.watch {
				return c.watchStatus(ctx, p.stdout)
			}
			s, err := c.get(ctx)
			if err != nil {
				return err
			}
			return c.print(p.stdout, s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.inventory, "inventory", nodestate.DefaultInventoryPath, "`File` of the inventory. The daemon's socket is in the same folder.")
	f.StringVar(&c.attachments, "attachments-dir", nodestate.DefaultAttachmentsDir, "`Folder` of the plugin's attachment records.")
	f.StringVar(&c.leases, "lease-dir", leases.DefaultDir, "`Folder` of the address leases.")
	f.StringVarP(&c.output, "output", "o", outputTable, "`Format`: table, wide, json or yaml. Only table shortens long names.")
	f.BoolVarP(&c.watch, "watch", "w", false, "Look once a second, and print again after each change.")
	cli.Offer(cmd, "output", outputs()...)
	return cmd
}

// The values of status --output.
const (
	outputTable = "table"
	outputWide  = "wide"
	outputJSON  = "json"
	outputYAML  = "yaml"
)

func outputs() []string { return []string{outputTable, outputWide, outputJSON, outputYAML} }

type statusFlags struct {
	inventory, attachments, leases, output string
	watch                                  bool
}

func (c statusFlags) get(ctx context.Context) (status.Status, error) {
	return status.Get(ctx, c.inventory, nodestate.AttachmentDir(c.attachments), leases.Dir(c.leases))
}

func (c statusFlags) print(out io.Writer, s status.Status) error {
	switch c.output {
	case outputJSON:
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	case outputYAML:
		data, err := yaml.Marshal(s)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	}
	return s.Node().Print(out, c.output == outputWide)
}

// watchEvery is the pause between two looks of status --watch.
const watchEvery = time.Second

// watchStatus prints the status, and prints it again after each change, until ctx ends.
func (c statusFlags) watchStatus(ctx context.Context, out io.Writer) error {
	return show.Watch(ctx, out, watchEvery, func(out io.Writer) error {
		s, err := c.get(ctx)
		if err != nil {
			return err
		}
		if s.Live != nil {
			s.Live.SyncedAt = time.Time{} // it changes with every look of the daemon
		}
		return c.print(out, s)
	})
}
