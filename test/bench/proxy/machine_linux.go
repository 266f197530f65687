package proxy

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is the CPU time of the whole machine, and of the run in it.
type machine struct {
	at                time.Time
	busy, stolen, own time.Duration
}

// ticks a second in /proc/stat, on Linux.
const ticks = 100

// machine reads it between two sides, when only the processes that all share run.
func (s *stage) machine() (machine, error) {
	m := machine{at: time.Now()}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, fmt.Errorf("reading the machine's CPU time: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return m, fmt.Errorf("reading the machine's CPU time: %q has no time that was stolen", line)
	}
	// user, nice, system, idle, iowait, irq, softirq, steal
	var times [8]time.Duration
	for i := range times {
		number, err := strconv.ParseInt(fields[i+1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("reading the machine's CPU time: %w", err)
		}
		times[i] = time.Duration(number) * time.Second / ticks
	}
	m.busy, m.stolen = times[0]+times[1]+times[2]+times[5]+times[6], times[7]
	m.own, err = s.own()
	return m, err
}

// own is the CPU time of this process and of all that it has started.
func (s *stage) own() (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range []int{os.Getpid(), s.redis.pid, s.application.pid} {
		used, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		total += used
	}
	var ended unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &ended); err != nil {
		return 0, fmt.Errorf("reading the CPU time of ended processes: %w", err)
	}
	return total + time.Duration(ended.Utime.Nano()+ended.Stime.Nano()), nil
}

// since is how many processors others kept busy, and how many were stolen.
func (m machine) since(before machine) (others, stolen float64) {
	elapsed := m.at.Sub(before.at)
	busy := (m.busy - before.busy) - (m.own - before.own)
	return max(float64(busy)/float64(elapsed), 0), float64(m.stolen-before.stolen) / float64(elapsed)
}
