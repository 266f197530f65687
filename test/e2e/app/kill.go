package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// kill ends a process that this one can see (the pod shares its process
// namespace, or the node's) as a crash would: without a chance to drain. Its
// command line begins with a name, and the names of its control groups hold a
// pod's UID, if one is given.
func kill(arguments []string) error {
	if len(arguments) < 1 || len(arguments) > 2 {
		return fmt.Errorf("kill wants the beginning of a command line and, if it is another pod's, the pod's UID")
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range files {
		command, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(command, []byte(arguments[0])) {
			continue
		}
		if len(arguments) == 2 {
			groups, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
			if err != nil || !bytes.Contains(groups, []byte(arguments[1])) {
				continue
			}
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	}
	return fmt.Errorf("no process begins with %q", arguments[0])
}
