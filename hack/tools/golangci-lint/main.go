// Command golangci-lint is golangci-lint with kube-api-linter compiled in, as
// `golangci-lint custom` would build it, but from pinned modules alone.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"
	_ "sigs.k8s.io/kube-api-linter" // registers the linter kubeapilinter
)

func main() {
	err := commands.Execute(commands.BuildInfo{
		GoVersion: runtime.Version(),
		Version:   version("github.com/golangci/golangci-lint/v2"),
		Commit:    "with kube-api-linter " + version("sigs.k8s.io/kube-api-linter"),
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "golangci-lint: %v\n", err)
		os.Exit(exitcodes.Failure)
	}
}

// version of a module that this program is built from.
func version(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, module := range info.Deps {
		if module.Path == path {
			return module.Version
		}
	}
	return "unknown"
}
