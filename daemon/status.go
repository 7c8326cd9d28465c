package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (p program) statusCommand() *cobra.Command {
	var inventory, attachments, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the node's devices, who holds them, and what is wrong",
		Long:  "Show the node's devices, who holds them, and what is wrong. It reads files only, and works while the daemon is down.",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if output != "table" && output != "json" {
				return usagef("--output %q: want table or json", output)
			}
			s, err := readStatus(inventory, nodestate.AttachmentDir(attachments))
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(p.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return s.print(p.stdout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&inventory, "inventory", nodestate.DefaultInventoryPath, "inventory to read")
	f.StringVar(&attachments, "attachments-dir", nodestate.DefaultAttachmentsDir, "folder of the plugin's attachment records")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// status is what the files say of the node.
type status struct {
	Inventory nodestate.Inventory `json:"inventory"`
	// EarlierBoot: the inventory was written before the node's last start, and
	// nothing in it holds any more.
	EarlierBoot bool     `json:"earlierBoot"`
	Holders     []holder `json:"holders"`
	// Unreadable are records that may be holders.
	Unreadable []string `json:"unreadable"`
}

// holder is one attachment of this boot that has not given its device back.
type holder struct {
	PCIAddress  device.PCIAddress `json:"pciAddress"`
	Pod         string            `json:"pod,omitempty"`
	ContainerID string            `json:"containerID"`
	IfName      string            `json:"ifname"`
	Mode        nodestate.Mode    `json:"mode"`
	State       nodestate.State   `json:"state"`
}

func readStatus(path string, attachments nodestate.AttachmentDir) (status, error) {
	inv, err := nodestate.ReadInventory(path)
	if errors.Is(err, fs.ErrNotExist) {
		return status{}, fmt.Errorf("no inventory at %q: multi-enid has not run since the node started, or writes elsewhere (--inventory)", path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return status{}, fmt.Errorf("read inventory: %w; only root may read it: sudo multi-enid status", err)
	case errors.Is(err, nodestate.ErrCorrupt):
		return status{}, fmt.Errorf("read inventory: %w; multi-enid writes it anew within a minute if it is running and of this version", err)
	case err != nil:
		return status{}, fmt.Errorf("read inventory: %w", err)
	}
	boot, err := nodestate.BootID()
	if err != nil {
		return status{}, err
	}
	s := status{Inventory: inv, EarlierBoot: inv.BootID != boot, Holders: []holder{}, Unreadable: []string{}}
	all, bad, err := attachments.List()
	if err != nil {
		bad = append(bad, err)
	}
	for _, err := range bad {
		s.Unreadable = append(s.Unreadable, err.Error())
	}
	for _, a := range all {
		if a.BootID == boot && a.State != nodestate.StateReleased {
			s.Holders = append(s.Holders, holder{
				PCIAddress: a.Device.PCIAddress, Pod: a.Pod, ContainerID: a.ContainerID, IfName: a.IfName, Mode: a.Mode, State: a.State,
			})
		}
	}
	return s, nil
}

// print writes the status for people.
func (s status) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Node %s, last change %s\n", s.Inventory.NodeName, s.Inventory.UpdatedAt.UTC().Format(time.RFC3339))
	if s.EarlierBoot {
		b.WriteString("This inventory is of an earlier boot: nothing in it holds until multi-enid has run again.\n")
	}
	b.WriteByte('\n')
	switch {
	case len(s.Inventory.Devices) == 0 && len(s.Inventory.Problems) > 0:
		b.WriteString("No devices, perhaps for the problems below.\n")
	case len(s.Inventory.Devices) == 0:
		b.WriteString("No devices: no NodeENI declares an ENI of this node.\n")
	default:
		if err := s.table(&b); err != nil {
			return err
		}
	}
	s.problems(&b)
	_, err := io.WriteString(out, b.String())
	return err
}

func (s status) table(out io.Writer) error {
	held := map[device.PCIAddress][]string{}
	for _, h := range s.Holders {
		if s.EarlierBoot {
			break // its addresses may be those of other devices now
		}
		held[h.PCIAddress] = append(held[h.PCIAddress], h.String())
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tNODEENI\tPCI\tINTERFACE\tDRIVER\tADDRESSES\tRESOURCE\tPHASE\tHOLDER")
	for _, d := range s.Inventory.Devices {
		var addresses []string
		for _, a := range d.Addresses {
			addresses = append(addresses, a.String())
		}
		row := []string{
			d.ENIID.String(), d.NodeENI, d.PCIAddress.String(), d.InterfaceName, d.Driver, strings.Join(addresses, ","),
			d.ResourceName.String(), string(d.Phase), strings.Join(held[d.PCIAddress], ", "),
		}
		for i := range row {
			row[i] = or(row[i], "-")
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// String names the pod, or the container where the runtime named no pod.
func (h holder) String() string {
	name := or(h.Pod, h.ContainerID)
	if h.State == nodestate.StateIntent {
		return name + " (starting or stopping)"
	}
	return name
}

func (s status) problems(b *strings.Builder) {
	b.WriteByte('\n')
	if len(s.Inventory.Problems) == 0 && len(s.Unreadable) == 0 {
		b.WriteString("No problems.\n")
		return
	}
	b.WriteString("Problems:\n")
	for _, p := range s.Inventory.Problems {
		about := p.Reason
		for _, part := range []string{p.NodeENI, p.Device} {
			if part != "" {
				about += " " + part
			}
		}
		fmt.Fprintf(b, "  %s: %s\n", about, p.Message)
	}
	for _, u := range s.Unreadable {
		fmt.Fprintf(b, "  UnreadableRecord: %s; its device may be held: remove the file if its container is gone\n", u)
	}
}
