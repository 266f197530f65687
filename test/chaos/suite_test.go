// Package chaos shows that the limiter keeps its promises whatever happens to
// Redis, to sidecars and to limits: real sidecars, built and run as processes,
// hold callers to limits together on a real Redis while one fault after the
// other befalls them. What they admitted they record (--audit-file), and
// test/audit/judge finds from the records of all of them whether a window was over.
package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// patience bounds every wait for something that takes a moment.
	patience = 30 * time.Second
	// storeTimeout of the sidecars: what a decision may take, and 10 ms.
	storeTimeout = 500 * time.Millisecond
	// hang is what no decision may take on the busiest machine.
	hang = 10 * storeTimeout
)

// full is WEIR_FULL: faults last longer, and come again.
var full = os.Getenv("WEIR_FULL") != ""

// times is a number of repetitions: more of them with WEIR_FULL.
func times(n int) int {
	if full {
		return 10 * n
	}
	return n
}

var (
	// binaries has what is built, sidecarBinary is ./sidecar.
	binaries, sidecarBinary string
	results                 table
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weir-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a directory for the sidecar:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries, sidecarBinary = dir, filepath.Join(dir, "sidecar")
	if err := build(sidecarBinary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	results.print(os.Stdout)
	return code
}

func build(binary string, flags ...string) error {
	command := exec.Command("go", append(append([]string{"build"}, flags...), "-o", binary, "../../sidecar")...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("building the sidecar: %w\n%s", err, out)
	}
	return nil
}

// stepping writes what replaces package time in a build, so that the wall clock
// of the process is an hour ahead for a second, then right, then an hour behind,
// over and over. Its monotonic clock goes on, as it does on Linux when somebody
// sets the time.
func stepping(dir string) (overlay string, err error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("asking for GOROOT: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const reads = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), reads) != 1 {
		return "", fmt.Errorf("%s does not have the lines that step the clock are put after:\n%s", original, reads)
	}
	stepped := strings.Replace(string(source), reads, reads+"\tsec += [...]int64{3600, 0, -3600}[(mono-startNano)/1e9%3]\n", 1)
	replacement := filepath.Join(dir, "time.go")
	if err := os.WriteFile(replacement, []byte(stepped), 0o600); err != nil {
		return "", err
	}
	encoded, err := json.Marshal(map[string]map[string]string{"Replace": {original: replacement}})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, encoded, 0o600)
}

// eventually waits for a condition that nothing tells of.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if err = condition(); err == nil {
			return
		}
	}
	t.Fatalf("after %v still not: %s: %v", patience, what, err)
}
