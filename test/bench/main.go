// Command bench measures multi-eni and multi-enid side by side with the reference plugins and with the least possible
// cost, on a node of namespaces, and prints one table. It judges nothing: it fails only if it could not measure.
package main

//go:generate go -C ../tools/chart run . ../../../docs/performance.json ../../../docs/images/performance.svg
//go:generate go test ./table -run ^TestPage$ -update

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	onlyEnv = "MULTI_ENI_BENCH_ONLY"
	// insideEnv holds the folder of the run in the process that has namespaces of its own.
	insideEnv = "MULTI_ENI_BENCH_INSIDE"
	// benchTimeout bounds the whole run, which takes about eight minutes.
	benchTimeout = 20 * time.Minute
)

// only are the letters of the items to measure; "" is all.
var only = flag.String("only", os.Getenv(onlyEnv), "letters of the items to measure, such as ak; all of them by default")

// rounds is the number for one pod at a time; eight side by side have a fifth of it.
var rounds = flag.Int("rounds", one.rounds, "rounds of each comparison; fewer are faster and less exact")

// asJSON is a second output file, for docs/performance.json.
var asJSON = flag.String("json", "", "file to write the figures to, as JSON")

func main() {
	flag.Parse()
	one.rounds, side.rounds = max(*rounds, 1), max(*rounds/5, 1)
	if err := bench(); err != nil {
		fmt.Fprintf(os.Stderr, "make bench: %v\n", err)
		os.Exit(1)
	}
}

func bench() error {
	ctx, cancel := context.WithTimeout(context.Background(), benchTimeout)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(insideEnv) != "" {
		return inside(ctx)
	}
	return outside(ctx)
}

// wanted says whether an item is to be measured, by the letters in its name.
func wanted(item string) bool {
	for _, letter := range *only {
		if strings.Contains(item, "("+string(letter)+")") {
			return true
		}
	}
	return *only == ""
}

func progress(what string) { fmt.Fprintf(os.Stderr, "measuring %s\n", what) }

// outside builds the small programs, measures the daemon, starts itself again on a node, and prints both results.
func outside(ctx context.Context) error {
	repo, err := nstest.Repo()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "multi-eni-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	for _, name := range []string{"floor", "launch"} {
		if err := build(ctx, repo, filepath.Join(dir, name), "./test/bench/"+name); err != nil {
			return err
		}
	}
	rows, err := measureInside(ctx, dir)
	if err != nil {
		return err
	}
	if wanted(itemSync) {
		progress(itemSync)
		rows = append(rows, syncRows(ctx, repo)...)
	}
	return report(rows)
}

func build(ctx context.Context, repo, to, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Dir, cmd.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func measureInside(ctx context.Context, dir string) ([]table.Row, error) {
	cmd := nstest.Command(ctx, "/proc/self/exe", fmt.Sprintf("-rounds=%d", *rounds))
	cmd.Env = append(os.Environ(), insideEnv+"="+dir, onlyEnv+"="+*only)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	out, err := cmd.Output()
	if denied := nstest.Denied(err); denied != nil {
		return nil, fmt.Errorf("%w; try: sudo make bench", denied)
	}
	if err != nil {
		return nil, fmt.Errorf("measure on a node of namespaces: %w", err)
	}
	var rows []table.Row
	if err := json.Unmarshal(out, &rows); err != nil {
		return nil, fmt.Errorf("read the rows of the inner process: %w", err)
	}
	return rows, nil
}

func inside(ctx context.Context) error {
	if err := nstest.Prepare(); err != nil {
		return err
	}
	dir := os.Getenv(insideEnv)
	n, err := newNode(dir, tools{floor: filepath.Join(dir, "floor"), launch: filepath.Join(dir, "launch")})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(n.measure(ctx))
}

func report(rows []table.Row) error {
	figures := table.Report{Machine: machine(), Pairs: one.pairs(), SideBySide: side.pairs(), Rows: rows}
	if err := figures.Print(os.Stdout); err != nil {
		return err
	}
	if *asJSON != "" {
		if err := figures.WriteFile(*asJSON); err != nil {
			return err
		}
	}
	missing := 0
	for _, r := range rows {
		if r.Fault != "" {
			fmt.Fprintf(os.Stderr, "\nnot measured: %s: %s: %s\n", r.Item, r.Name, r.Fault)
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d rows could not be measured", missing, len(rows))
	}
	return nil
}

func machine() string {
	cpu := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			cpu, _, _ = strings.Cut(rest, "\n")
		}
	}
	kernel := "unknown"
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ = strings.Cut(strings.TrimSpace(string(release)), "-")
	}
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", cpu, runtime.NumCPU(), kernel, runtime.Version())
}
