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
// namespace) as a crash would: without a chance to drain.
func kill(arguments []string) error {
	if len(arguments) != 1 {
		return fmt.Errorf("kill wants a name")
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
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	}
	return fmt.Errorf("no process begins with %q", arguments[0])
}
