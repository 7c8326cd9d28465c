// Command mutate changes one operator of a package after the other, and fails if the
// package's own tests notice less than 95 % of the changes. gremlins makes the changes in
// a copy of the module. It finds this program in place of the go command, which so
//   - runs the short tests, without vet. Those that take long run last, and only for a
//     change that the others have not noticed;
//   - calls every line covered: Go's profile has neither constants nor the conditions of
//     a case, and gremlins would leave these out. A change that no test reaches lives;
//   - tells a change that does not compile from one that a test has noticed.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// limit is the least efficacy, and the least statement coverage, in percent.
const limit = 95

// The environment of the stand-in: the path of the go command, and the files for its coverage and its slow tests.
const goEnv, coverageEnv, slowEnv = "MUTATE_GO", "MUTATE_COVERAGE", "MUTATE_SLOW"

// slow is the least time of a test that runs after the others.
const slow = 100 * time.Millisecond

func main() {
	if filepath.Base(os.Args[0]) == "go" {
		os.Exit(standIn(os.Args[1:]))
	}
	gremlins := flag.String("gremlins", "", "the program gremlins, by an absolute `path`")
	goCommand := flag.String("go", "go", "the go command")
	workers := flag.Int("workers", 2, "how many changes are tested at once")
	flag.Parse()
	if err := run(*gremlins, *goCommand, *workers, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(gremlins, goCommand string, workers int, packages []string) error {
	dir, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	src := filepath.Join(dir, "src")
	if err := copyTree(src); err != nil {
		return err
	}
	env, err := environment(dir, goCommand)
	if err != nil {
		return err
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-30s %8s %8s %6s %10s %9s %9s %6s\n", "package", "killed", "lived", "timeout", "no build", "efficacy", "coverage", "time")
	var weak []string
	for _, pkg := range packages {
		begin, report := time.Now(), filepath.Join(dir, "report.json")
		cmd := exec.Command(gremlins, "unleash", "--workers", fmt.Sprint(workers), //nolint:gosec // our own arguments
			"--timeout-coefficient", "10", "--output", report, pkg)
		cmd.Dir, cmd.Env = src, env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("gremlins of %s: %w\n%s", pkg, err, out)
		}
		r, err := read(report, filepath.Join(dir, "coverage"))
		if err != nil {
			return fmt.Errorf("gremlins of %s: %w", pkg, err)
		}
		for _, m := range r.survivors {
			fmt.Printf("lived: %s/%s\n", pkg, m)
		}
		if r.efficacy() < limit || r.coverage < limit {
			weak = append(weak, pkg)
		}
		fmt.Fprintf(&table, "%-30s %8d %8d %6d %10d %8.1f%% %8.1f%% %6s\n", strings.TrimPrefix(pkg, "./"), r.count["KILLED"], len(r.survivors),
			r.count["TIMED OUT"], r.count["NOT VIABLE"], r.efficacy(), r.coverage, time.Since(begin).Round(time.Second))
	}
	fmt.Print(table.String())
	if weak != nil {
		return fmt.Errorf("less than %d %% of efficacy or coverage: %s; test what lives, or delete it", limit, strings.Join(weak, ", "))
	}
	return nil
}

func copyTree(to string) error {
	out, err := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-coz", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, data, 0o755); err != nil { //nolint:gosec // some are programs
			return err
		}
	}
	return nil
}

// environment has this program stand before the go command.
func environment(dir, goCommand string) ([]string, error) {
	program, err := exec.LookPath(goCommand)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return nil, err
	}
	if err := os.Symlink(self, filepath.Join(bin, "go")); err != nil {
		return nil, err
	}
	return append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), goEnv+"="+program,
		coverageEnv+"="+filepath.Join(dir, "coverage"), slowEnv+"="+filepath.Join(dir, "slow")), nil
}

// result is the part of gremlins' report of one package that is read here.
type result struct {
	count     map[string]int
	survivors []string
	coverage  float64
}

// efficacy leaves out changes that were not tested to the end, as gremlins does.
func (r result) efficacy() float64 {
	return 100 * float64(r.count["KILLED"]) / float64(max(r.count["KILLED"]+r.count["LIVED"], 1))
}

func read(report, coverage string) (result, error) {
	r := result{count: map[string]int{}}
	data, err := os.ReadFile(report)
	if err != nil {
		return r, err
	}
	var doc struct {
		Files []struct {
			Name      string `json:"file_name"`
			Mutations []struct {
				Type, Status string
				Line, Column int
			}
		}
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return r, err
	}
	for _, f := range doc.Files {
		for _, m := range f.Mutations {
			r.count[m.Status]++
			if m.Status == "LIVED" {
				r.survivors = append(r.survivors, fmt.Sprintf("%s:%d:%d: %s", f.Name, m.Line, m.Column, m.Type))
			}
		}
	}
	slices.Sort(r.survivors)
	data, err = os.ReadFile(coverage)
	if err != nil {
		return r, err
	}
	_, err = fmt.Sscan(string(data), &r.coverage)
	return r, err
}

// standIn is the go command for gremlins. It returns the exit code, which is 2 for a change that does not compile.
func standIn(args []string) int {
	if args[0] != "test" {
		_, code := execGo(args)
		return code
	}
	profile := slices.Index(args, "-coverprofile")
	if profile >= 0 {
		out, code := goTest(args, "-v")
		if code != 0 {
			return code
		}
		if err := note(args[profile+1], out); err != nil {
			fmt.Fprintln(os.Stderr, "mutate:", err)
			return 1
		}
		return 0
	}
	names, err := os.ReadFile(os.Getenv(slowEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		return 3
	}
	if _, code := goTest(args, "-skip", string(names)); code != 0 || len(names) == 0 {
		return code
	}
	_, code := goTest(args, "-run", string(names))
	return code
}

func goTest(args []string, more ...string) (out []byte, code int) {
	return execGo(slices.Insert(slices.Clone(args), 1, append(more, "-short", "-vet=off")...))
}

func execGo(args []string) (out []byte, code int) {
	out, err := exec.Command(os.Getenv(goEnv), args...).CombinedOutput() //nolint:gosec // the go command
	_, _ = os.Stdout.Write(out)
	switch {
	case bytes.Contains(out, []byte("[build failed]")):
		return out, 2
	case err != nil:
		return out, 1
	}
	return out, 0
}

// note writes the pattern of the slow tests, empty if there are none, and the coverage.
func note(profile string, out []byte) error {
	var names []string
	for _, found := range passLine.FindAllSubmatch(out, -1) {
		if took, err := time.ParseDuration(string(found[2])); err == nil && took >= slow {
			names = append(names, string(found[1]))
		}
	}
	pattern := ""
	if names != nil {
		pattern = "^(" + strings.Join(names, "|") + ")$"
	}
	if err := os.WriteFile(os.Getenv(slowEnv), []byte(pattern), 0o600); err != nil {
		return err
	}
	return widen(profile, out)
}

var (
	coverageLine = regexp.MustCompile(`coverage: ([0-9.]+)% of statements`)
	passLine     = regexp.MustCompile(`(?m)^--- PASS: (\S+) \(([0-9.]+s)\)$`)
)

// widen notes the tests' coverage, and adds a block for all of each file to the profile.
func widen(profile string, out []byte) error {
	found := coverageLine.FindSubmatch(out)
	if found == nil {
		return errors.New("the tests tell no coverage")
	}
	if err := os.WriteFile(os.Getenv(coverageEnv), found[1], 0o600); err != nil {
		return err
	}
	data, err := os.ReadFile(profile)
	if err != nil {
		return err
	}
	files := map[string]bool{}
	for line := range strings.SplitSeq(string(data), "\n") {
		if name, _, ok := strings.Cut(line, ".go:"); ok && !files[name] {
			files[name] = true
			data = fmt.Appendf(data, "%s.go:1.1,1000000.1 1 1\n", name)
		}
	}
	return os.WriteFile(profile, data, 0o600)
}
