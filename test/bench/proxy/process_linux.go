package proxy

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuUse is CPU time, user and system.
type cpuUse struct{ proxy, redis time.Duration }

func (c cpuUse) less(before cpuUse) cpuUse {
	return cpuUse{proxy: c.proxy - before.proxy, redis: c.redis - before.redis}
}

// cpuTime of all threads of a process, also of those that ended; it is exact to
// nanoseconds, where /proc/PID/stat counts hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	// CPUCLOCK_SCHED of the process, linux/posix-timers_types.h.
	clock := int32(^pid<<3 | 2)
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(now.Nano()), nil
}

func memoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("reading a process's memory: %w", err)
	}
	var m Memory
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*float64{"VmRSS": &m.RSS, "RssAnon": &m.Anonymous}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		if err != nil {
			return Memory{}, fmt.Errorf("reading %s of process %d: %w", name, pid, err)
		}
		*into = kib / 1024
	}
	if m.RSS == 0 {
		return Memory{}, fmt.Errorf("process %d has no memory: it has ended", pid)
	}
	return m, nil
}
