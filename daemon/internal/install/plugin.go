package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
)

// installPlugin puts source in target's place: complete, or not at all. A running target goes on with its old content.
func installPlugin(ctx context.Context, source, target string) (outcome string, changed bool, err error) {
	data, err := os.ReadFile(source)
	if err != nil {
		return "", false, fmt.Errorf("read the new one: %w", err)
	}
	old, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("read the old one: %w", err)
	}
	info, statErr := os.Lstat(target)
	if err == nil && statErr == nil && info.Mode() == 0o755 && bytes.Equal(old, data) {
		return "already installed, " + version(ctx, target), false, nil
	}
	before := "none"
	if err == nil {
		before = version(ctx, target)
	}
	// A fixed name, from which a killed install may still run its probe.
	if err := atomicfile.Remove(atomicfile.TempPath(target)); err != nil {
		return "", false, fmt.Errorf("remove what a killed install has left: %w", err)
	}
	tmp, err := atomicfile.Prepare(target, data, 0o755, atomicfile.Durable)
	if err != nil {
		return "", false, fmt.Errorf("write beside the old one: %w", err)
	}
	defer tmp.Discard() // gone after the rename
	tmp.Close()         // a file that is open for writing cannot be executed
	after, err := PluginVersion(ctx, tmp.Name())
	if err != nil {
		return "", false, fmt.Errorf("the new one does not work here, the old one stays: %w", err)
	}
	if err := tmp.Replace(); err != nil {
		return "", false, fmt.Errorf("put the new one in place: %w", err)
	}
	return fmt.Sprintf("installed, %s → %s", before, after), true, nil
}

const probeTimeout = 10 * time.Second

// PluginVersion returns the version of a plugin that answers the CNI command VERSION.
func PluginVersion(ctx context.Context, path string) (string, error) {
	if err := probe(ctx, path); err != nil {
		return "", err
	}
	return version(ctx, path), nil
}

func probe(ctx context.Context, path string) error {
	stdout, _, err := runPlugin(ctx, path, "CNI_COMMAND=VERSION")
	if err != nil {
		return err
	}
	var answer struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal(stdout, &answer); err != nil || len(answer.SupportedVersions) == 0 {
		return fmt.Errorf("CNI command VERSION answers %q, want supportedVersions", bytes.TrimSpace(stdout))
	}
	return nil
}

// version is the last word of the first line that the plugin prints when it runs without a command.
func version(ctx context.Context, path string) string {
	_, stderr, err := runPlugin(ctx, path)
	line, _, _ := strings.Cut(string(stderr), "\n")
	fields := strings.Fields(line)
	if err != nil || len(fields) == 0 {
		return "an unknown version"
	}
	return fields[len(fields)-1]
}

func runPlugin(ctx context.Context, path string, env ...string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0"}`)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, nil, fmt.Errorf("run %s: %w%s", path, err, because(errOut.Bytes()))
	}
	return out.Bytes(), errOut.Bytes(), nil
}

func because(stderr []byte) string {
	if text := bytes.TrimSpace(stderr); len(text) > 0 {
		return ": " + string(text)
	}
	return ""
}
