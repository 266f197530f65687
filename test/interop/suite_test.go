// Package interop shows that Weir's worker and real Celery share queues,
// results, events and remote control, and that no crash loses a task: real
// redis-server, real Celery (Debian's python3-celery), the real worker binary.
package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// python is Debian's, which has Debian's Celery.
const python = "/usr/bin/python3"

// patience bounds every wait for something that takes a moment.
const patience = 30 * time.Second

var (
	// workerBinary is ./worker; countingBinary has tasks that can be counted.
	workerBinary, countingBinary string
	// appDir holds the Celery application.
	appDir string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if out, err := exec.Command(python, "-c", "import celery, redis").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need Debian's python3-celery and python3-redis, e.g. `make tools`: %v\n%s", err, out)
		return 1
	}
	dir, err := os.MkdirTemp("", "weir-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a directory for the binaries:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	workerBinary, countingBinary = filepath.Join(dir, "worker"), filepath.Join(dir, "counting")
	for binary, source := range map[string]string{workerBinary: "../../worker", countingBinary: "./worker"} {
		if out, err := exec.Command("go", append(build(), "-o", binary, source)...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", source, err, out)
			return 1
		}
	}
	if appDir, err = filepath.Abs("app"); err != nil {
		fmt.Fprintln(os.Stderr, "looking for the Celery application:", err)
		return 1
	}
	return m.Run()
}

// build is the command that builds the workers: with the race detector if these
// tests have it.
func build() []string {
	if info, known := debug.ReadBuildInfo(); known && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return []string{"build", "-race"}
	}
	return []string{"build"}
}
