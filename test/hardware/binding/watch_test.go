package binding

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const watchEvery = 5 * time.Millisecond

// watcher compares the daemon's report of one ENI with sysfs. A device that is advertised for DPDK must be one.
type watcher struct {
	t        *testing.T
	eni, pci string
	driver   string // the userspace driver
	stop     chan struct{}
	done     sync.WaitGroup
	once     sync.Once

	// Used by the goroutine, read after its end.
	config, inventory reading
	entry             string           // the config's, of the device
	row               nodestate.Device // the inventory's, of the ENI
	phases            []nodestate.Phase
	configs           []string
	advertised        int
}

func watch(t *testing.T, eni, pci, driver string) *watcher {
	t.Helper()
	w := &watcher{t: t, eni: eni, pci: pci, driver: driver, stop: make(chan struct{})}
	w.done.Go(w.run)
	t.Cleanup(w.finish)
	return w
}

func (w *watcher) run() {
	for {
		w.look()
		select {
		case <-w.stop:
			return
		case <-time.After(watchEvery):
		}
	}
}

// look reads a file only if it was replaced, to spare the machine.
func (w *watcher) look() {
	if !w.config.still(guest.DPConfigPath) {
		w.config = read(guest.DPConfigPath)
		w.entry = section(w.config.data, w.pci)
		if n := len(w.configs); w.config.data != nil && (n == 0 || w.configs[n-1] != string(w.config.data)) {
			w.configs = append(w.configs, string(w.config.data))
		}
	}
	driver := guest.Driver(w.pci)
	if w.entry != "" && w.config.still(guest.DPConfigPath) {
		w.advertised++
		if strings.Contains(w.entry, w.driver) && driver != w.driver {
			w.t.Errorf("%s is advertised with %s while sysfs shows %q", w.pci, w.driver, driver)
		}
	}
	if !w.inventory.still(nodestate.DefaultInventoryPath) && !w.readInventory() {
		return
	}
	driver = guest.Driver(w.pci)
	if w.row.Phase == nodestate.PhaseReady && w.row.Driver == w.driver && driver != w.driver && w.inventory.still(nodestate.DefaultInventoryPath) {
		w.t.Errorf("%s is ready with %s while sysfs shows %q", w.eni, w.driver, driver)
	}
}

func (w *watcher) readInventory() bool {
	w.inventory, w.row = read(nodestate.DefaultInventoryPath), nodestate.Device{}
	var content nodestate.Inventory
	if json.Unmarshal(w.inventory.data, &content) != nil {
		return false
	}
	for _, d := range content.Devices {
		if d.ENIID == device.ENIID(w.eni) {
			w.row = d
		}
	}
	if n := len(w.phases); n == 0 || w.phases[n-1] != w.row.Phase {
		w.phases = append(w.phases, w.row.Phase)
	}
	return true
}

func (w *watcher) finish() {
	w.once.Do(func() {
		close(w.stop)
		w.done.Wait()
		if w.advertised == 0 {
			w.t.Errorf("%s was never seen advertised", w.pci)
		}
	})
}

// reading is a file at one moment. The daemon replaces its files and never changes them.
type reading struct {
	data []byte
	info os.FileInfo // nil when there was no file
}

func read(path string) reading {
	f, err := os.Open(path)
	if err != nil {
		return reading{}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return reading{}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return reading{}
	}
	return reading{data, info}
}

func (r reading) still(path string) bool {
	now, err := os.Stat(path)
	return err == nil && r.info != nil && os.SameFile(now, r.info) && now.ModTime().Equal(r.info.ModTime())
}

func section(config []byte, pci string) string {
	var c struct{ ResourceList []json.RawMessage }
	if json.Unmarshal(config, &c) != nil {
		return ""
	}
	for _, r := range c.ResourceList {
		if bytes.Contains(r, []byte(pci)) {
			return string(r)
		}
	}
	return ""
}
