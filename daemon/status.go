package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/operate"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// askTimeout is how long the daemon may take to answer. It answers from memory.
const askTimeout = 2 * time.Second

func (p program) statusCommand(ctx context.Context) *cobra.Command {
	var inventory, attachments, leases, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the node's devices, who holds them, and what is wrong",
		Long: "Show the node's devices, who holds them, and what is wrong. It asks the running daemon by the socket beside the inventory;\n" +
			"when that does not answer it reads the files, and works while the daemon is down.",
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if output != "table" && output != "json" {
				return usagef("--output %q: want table or json", output)
			}
			s, err := getStatus(ctx, inventory, nodestate.AttachmentDir(attachments), nodestate.LeaseDir(leases))
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
	f.StringVar(&inventory, "inventory", nodestate.DefaultInventoryPath, "inventory to read, and in whose folder the daemon's socket is")
	f.StringVar(&attachments, "attachments-dir", nodestate.DefaultAttachmentsDir, "folder of the plugin's attachment records")
	f.StringVar(&leases, "lease-dir", nodestate.DefaultLeaseDir, "folder of the leases of addresses by eni-ipam")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// status is printed for people, or as JSON as it is.
type status struct{ operate.Status }

// getStatus asks the daemon that writes the inventory, else the files.
func getStatus(ctx context.Context, inventory string, attachments nodestate.AttachmentDir, leases nodestate.LeaseDir) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	live, err := operate.Ask(ctx, filepath.Join(filepath.Dir(inventory), operate.SocketName))
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
	s := operate.Status{Inventory: inv, EarlierBoot: inv.BootID != boot, Holders: []reconcile.Holder{}, Unreadable: []string{}}
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
			s.Holders = append(s.Holders, reconcile.Holder{PCIAddress: u.PCIAddress, ContainerID: u.ID.ContainerID, IfName: u.ID.IfName})
		}
	}
	for i := range all {
		if a := &all[i]; a.Holds(boot) {
			s.Holders = append(s.Holders, reconcile.HolderOf(a))
		}
	}
	s.SetPools(leases)
	return status{s}, nil
}

// print writes the status for people.
func (s status) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Node %s, last change %s\n", s.Inventory.NodeName, s.Inventory.UpdatedAt.UTC().Format(time.RFC3339))
	if s.EarlierBoot {
		b.WriteString("This inventory is of an earlier boot: nothing in it holds until multi-enid has run again.\n")
	}
	s.origin(&b)
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
	if err := s.pools(&b); err != nil {
		return err
	}
	s.live(&b)
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
		held[h.PCIAddress] = append(held[h.PCIAddress], holderName(h))
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

// pools has a line for each pool of addresses.
func (s status) pools(b *strings.Builder) error {
	if len(s.Pools) == 0 || s.EarlierBoot {
		return nil
	}
	b.WriteString("\nAddresses for pods that share an ENI:\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tFAMILY\tFREE\tLEASED\tCOOLING\tRETIRING")
	for _, p := range s.Pools {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\n", p.ENIID, p.Family, many(p.Free()), p.Leased, p.Cooling, p.Retiring)
	}
	return w.Flush()
}

// many is a count that nobody reads digit by digit.
func many(n int) string {
	if n > 1<<20 {
		return ">1M"
	}
	return strconv.Itoa(n)
}

// holderName names the pod, or the container where the runtime named no pod, and
// the interface as which it has the device.
func holderName(h reconcile.Holder) string {
	name := or(h.Pod, h.ContainerID)
	switch {
	case h.Container != "":
		return name + " (allocated to " + h.Container + ")"
	case h.State == nodestate.StateIntent:
		return name + " (starting or stopping)"
	case h.IfName != "":
		return name + " as " + h.IfName
	}
	return name
}

// origin says in one line who was asked.
func (s status) origin(b *strings.Builder) {
	if s.Live == nil {
		b.WriteString("From the files: multi-enid does not answer.\n")
		return
	}
	fmt.Fprintf(b, "From multi-enid %s, running since %s.\n", s.Live.Version, s.Live.StartedAt.UTC().Format(time.RFC3339))
}

// live has a line for each of what only the daemon knows.
func (s status) live(b *strings.Builder) {
	l := s.Live
	if l == nil {
		return
	}
	current := "current"
	if !l.Config.Current {
		current = "not current"
	}
	fmt.Fprintf(b, "\nConfig:         %s, %s, hash %s\n", l.Config.Path, current, or(l.Config.Hash, "not known"))
	fmt.Fprintf(b, "Device plugin:  %s", l.DevicePlugin.State)
	if len(l.DevicePlugin.Pods) > 0 {
		fmt.Fprintf(b, ", %s", strings.Join(l.DevicePlugin.Pods, ", "))
	}
	if !l.DevicePlugin.LastRestart.IsZero() {
		fmt.Fprintf(b, ", restarted %s", l.DevicePlugin.LastRestart.UTC().Format(time.RFC3339))
	}
	if l.DevicePlugin.Message != "" {
		fmt.Fprintf(b, ": %s", l.DevicePlugin.Message)
	}
	b.WriteString("\nAPI server:     ")
	switch {
	case l.API == nil:
		b.WriteString("not used\n")
	case l.API.Reachable:
		b.WriteString("followed\n")
	case l.API.Reason == "":
		b.WriteString("not answered yet\n")
	default:
		fmt.Fprintf(b, "cannot be followed (%s), what it said last still holds\n", l.API.Reason)
	}
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
		if !strings.Contains(u, "; ") { // it says no remedy itself
			u += "; what it holds is not known: remove the file if its container is gone"
		}
		fmt.Fprintf(b, "  UnreadableRecord: %s\n", u)
	}
}
