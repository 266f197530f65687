// Package conformance shows that applications cannot tell the sidecar's data
// path from a cable until a limit is reached: gRPC's own interoperability
// programs, h2spec, conversations of many protocols held with and without the
// sidecar, and large volumes at flat memory.
package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for what must happen; none takes nearly as long.
const patience = 20 * time.Second

// binaries is where program builds to.
var binaries string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if binaries, err = os.MkdirTemp("", "weir-conformance-"); err != nil {
		fmt.Fprintln(os.Stderr, "making a directory for programs:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(binaries) }()
	if err := os.Chmod(binaries, 0o755); err != nil { // the sidecar's user runs from it
		fmt.Fprintln(os.Stderr, "opening the directory for programs:", err)
		return 1
	}
	return m.Run()
}

// programs are the builds that were asked for.
var programs sync.Map // package: func() (string, error)

// program builds a command, once a run, and returns its path. The package is
// one that dir's module knows.
func program(t testing.TB, dir, pkg string) string {
	t.Helper()
	build, _ := programs.LoadOrStore(pkg, sync.OnceValues(func() (string, error) {
		path, err := os.MkdirTemp(binaries, "")
		if err != nil {
			return "", err
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return "", err
		}
		path = filepath.Join(path, "program")
		command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, pkg)
		command.Dir = dir
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return path, nil
	}))
	path, err := build.(func() (string, error))()
	if err != nil {
		t.Fatalf("building %s: %v", pkg, err)
	}
	return path
}

// full says that the sizes of the promise are asked for (WEIR_FULL=1), and not
// the smaller ones of every day.
var full = os.Getenv("WEIR_FULL") == "1"
