package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// askTimeout is how long the daemon may take to answer. It answers from memory.
const askTimeout = 2 * time.Second

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
				return p.watchStatus(ctx, c)
			}
			s, err := c.get(ctx)
			if err != nil {
				return err
			}
			return s.write(p.stdout, c.output)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.inventory, "inventory", nodestate.DefaultInventoryPath, "`File` of the inventory. The daemon's socket is in the same folder.")
	f.StringVar(&c.attachments, "attachments-dir", nodestate.DefaultAttachmentsDir, "`Folder` of the plugin's attachment records.")
	f.StringVar(&c.leases, "lease-dir", nodestate.DefaultLeaseDir, "`Folder` of the address leases.")
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

// statusFlags is the command line of status.
type statusFlags struct {
	inventory, attachments, leases, output string
	watch                                  bool
}

func (c statusFlags) get(ctx context.Context) (status, error) {
	return getStatus(ctx, c.inventory, nodestate.AttachmentDir(c.attachments), nodestate.LeaseDir(c.leases))
}

// status is printed for people, or as JSON as it is.
type status struct{ server.Status }

// write prints the status in one of the formats.
func (s status) write(out io.Writer, format string) error {
	switch format {
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
	return s.view().Print(out, format == outputWide)
}

// getStatus asks the daemon that writes the inventory, else the files.
func getStatus(ctx context.Context, inventory string, attachments nodestate.AttachmentDir, leases nodestate.LeaseDir) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	live, err := server.Ask(ctx, filepath.Join(filepath.Dir(inventory), server.SocketName))
	// the daemon may see the folder at another path, and the file may be a copy
	if err == nil && filepath.Base(live.Live.InventoryPath) == filepath.Base(inventory) {
		return status{live}, nil
	}
	// why it does not answer is no news: a status from files says that it is one
	return readStatus(inventory, attachments, leases)
}

func readStatus(path string, attachments nodestate.AttachmentDir, leases nodestate.LeaseDir) (status, error) {
	inv, err := nodestate.ReadInventory(path)
	if errors.Is(err, fs.ErrNotExist) {
		return status{}, fmt.Errorf("no inventory at %q: multi-enid has not run since the node started, or writes elsewhere (--inventory)", path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return status{}, fmt.Errorf("read inventory: %w; only root may read it: sudo multi-enid status", err)
	case errors.Is(err, nodestate.ErrCorrupt), errors.Is(err, nodestate.ErrOtherVersion):
		return status{}, fmt.Errorf("read inventory: %w; multi-enid writes it anew within a minute if it is running and of this version", err)
	case err != nil:
		return status{}, fmt.Errorf("read inventory: %w", err)
	}
	boot, err := nodestate.BootID()
	if err != nil {
		return status{}, err
	}
	s := server.Status{Inventory: inv, EarlierBoot: inv.BootID != boot, Holders: []view.Holder{}, Unreadable: []string{}}
	all, bad, err := attachments.List()
	if err != nil {
		s.Unreadable = append(s.Unreadable, err.Error())
	}
	for _, u := range bad {
		text := u.Error()
		if errors.Is(u, nodestate.ErrOtherVersion) {
			text += "; " + u.Remedy()
		}
		s.Unreadable = append(s.Unreadable, text)
		if u.PCIAddress != "" && !u.Ended(boot) {
			s.Holders = append(s.Holders, view.Holder{PCIAddress: u.PCIAddress, ContainerID: u.ID.ContainerID, IfName: u.ID.IfName})
		}
	}
	for i := range all {
		if a := &all[i]; a.Holds(boot) {
			s.Holders = append(s.Holders, view.HolderOf(a))
		}
	}
	s.SetPools(leases)
	return status{s}, nil
}
