// Package docs types what the documentation says into a cluster in which Weir
// is installed (`make cluster deploy`, then hack/cluster/examples.sh for the
// images that the pages name), and compares what it prints: see package pages.
package docs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/docs/pages"
)

const (
	root = "../.."
	// patience bounds one page.
	patience = 4 * time.Minute
)

// typed are the pages whose commands are run.
var typed = []string{"quickstart.md", "troubleshooting.md", "operations.md", "usage.md", "recipes/*.md"}

func TestPages(t *testing.T) {
	bin := kubectl(t)
	provide(t, bin)
	var paths []string
	for _, pattern := range typed {
		found, err := filepath.Glob(filepath.Join(root, "docs", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("docs/%s names no page: %v", pattern, err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		name, _ := filepath.Rel(root, path)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blocks, err := pages.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			runPage(t, bin, blocks)
		})
	}
}

// kubectl is a folder with the program of that name, which the environment's
// KUBECTL is.
func kubectl(t *testing.T) string {
	t.Helper()
	name := os.Getenv("KUBECTL")
	if name == "" {
		name = "kubectl"
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		t.Fatalf("kubectl (KUBECTL names another): %v", err)
	}
	bin := t.TempDir()
	if err := os.Symlink(path, filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	output, err := shell(t.Context(), bin, root, "kubectl -n weir-system get statefulset weir-operator")
	if err != nil {
		t.Fatalf("KUBECONFIG must name a cluster with Weir in it, see `make cluster deploy`: %v\n%s", err, output)
	}
	return bin
}

// provide makes the hosts that the pages call, for the time of the test.
func provide(t *testing.T, bin string) {
	t.Helper()
	t.Cleanup(func() {
		output, err := shell(context.Background(), bin, root, "kubectl -n weir-system delete configmap weir-host-roots --ignore-not-found\n"+
			"kubectl delete namespace com --ignore-not-found --timeout=1m")
		if err != nil {
			t.Errorf("removing the providers: %v\n%s", err, output)
		}
	})
	if output, err := shell(t.Context(), bin, root, "test/docs/providers.sh "+t.TempDir()); err != nil {
		t.Fatalf("making the providers: %v\n%s", err, output)
	}
}

// shell runs commands and returns what they print.
func shell(ctx context.Context, bin, folder, commands string) (string, error) {
	command, cancel := bash(ctx, bin, folder)
	defer cancel()
	command.Args = append(command.Args, "-euo", "pipefail", "-c", commands)
	output, err := command.CombinedOutput()
	return string(output), err
}

// bash is a shell that finds kubectl, in a folder, for as long as a page may take.
func bash(ctx context.Context, bin, folder string) (command *exec.Cmd, cancel context.CancelFunc) {
	ctx, cancel = context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %s", patience))
	command = exec.CommandContext(ctx, "bash")
	command.Dir = folder
	command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	command.WaitDelay = 5 * time.Second
	return command, cancel
}

// runPage types a page's blocks.
func runPage(t *testing.T, bin string, blocks []pages.Block) {
	run, summary := sorted(blocks)
	t.Log(summary)
	if len(run) == 0 {
		return
	}
	folder := desk(t, blocks)
	ownNamespaces(t, bin, blocks)
	command, cancel := bash(t.Context(), bin, folder)
	defer cancel()
	if err := pages.Type(command, run); err != nil {
		t.Error(err)
	}
}

// sorted are the blocks to run, and a sentence on those that are not.
func sorted(blocks []pages.Block) (run []pages.Block, summary string) {
	commands := 0
	var leftOut []string
	for _, b := range blocks {
		switch {
		case b.Language != "sh":
		case b.NotRun != "":
			leftOut = append(leftOut, fmt.Sprintf("line %d: %s", b.Line, b.NotRun))
		default:
			run = append(run, b)
			if !b.Setup {
				commands++
			}
		}
	}
	summary = fmt.Sprintf("%d blocks of commands are run, %d left out", commands, len(leftOut))
	if len(leftOut) > 0 {
		summary += " (" + strings.Join(leftOut, "; ") + ")"
	}
	return run, summary
}

// desk is a folder as a reader has it: the repository's, and the files that the
// page tells to save.
func desk(t *testing.T, blocks []pages.Block) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"config", "charts", "hack", "docs"} {
		path, err := filepath.Abs(filepath.Join(root, name))
		if err == nil {
			err = os.Symlink(path, filepath.Join(folder, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range blocks {
		if b.File == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(b.File)), []byte(b.Text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

var createsNamespace = regexp.MustCompile(`(?m)^kubectl create namespace (\S+)$`)

// ownNamespaces sees that what the page creates is not there yet, and removes
// it afterwards, whatever the page does.
func ownNamespaces(t *testing.T, bin string, blocks []pages.Block) {
	t.Helper()
	for _, b := range blocks {
		if b.NotRun != "" || b.Language != "sh" {
			continue
		}
		for _, match := range createsNamespace.FindAllStringSubmatch(b.Text, -1) {
			name := match[1]
			if output, err := shell(t.Context(), bin, root, "kubectl get namespace "+name+" --ignore-not-found -o name"); err != nil || output != "" {
				t.Fatalf("namespace %s, which the page creates, is there: %v %s", name, err, output)
			}
			t.Cleanup(func() {
				if t.Failed() {
					report(t, bin, name)
				}
				if output, err := shell(context.Background(), bin, root, "kubectl delete namespace "+name+" --ignore-not-found --wait=false"); err != nil {
					t.Errorf("removing namespace %s: %v\n%s", name, err, output)
				}
			})
		}
	}
}

// report is what the one who is paged would look at.
func report(t *testing.T, bin, namespace string) {
	t.Helper()
	output, _ := shell(context.Background(), bin, root, "export NAMESPACE="+namespace+`
kubectl -n $NAMESPACE get rlpol,ptask,pods,jobs -o wide || true
kubectl -n $NAMESPACE get events --sort-by=.lastTimestamp | tail -n 40 || true
for pod in $(kubectl -n $NAMESPACE get pods -o name); do
  kubectl -n $NAMESPACE logs $pod --all-containers --prefix --tail=20 || true
done`)
	t.Log(output)
}
