package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// family lists a process and its descendants.
func family(pid int) ([]int, error) {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			return nil, err
		}
		for _, list := range lists {
			text, err := os.ReadFile(list)
			if err != nil {
				continue // a thread that ended
			}
			for _, child := range strings.Fields(string(text)) {
				if number, err := strconv.Atoi(child); err == nil {
					pids = append(pids, number)
				}
			}
		}
	}
	return pids, nil
}

// clockTicks a second of /proc/PID/stat, on Linux.
const clockTicks = 100

// processesCPU is the CPU time that a process and its descendants have used, in
// seconds.
func processesCPU(pid int) (float64, error) {
	pids, err := family(pid)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, one := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", one))
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(after)
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return 0, err
			}
			total += ticks / clockTicks
		}
	}
	return total, nil
}

// processesMemory is their proportional set size in MiB: what they share counts
// once.
func processesMemory(pid int) (float64, error) {
	pids, err := family(pid)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, one := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", one))
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(string(text), "\nPss:")
		fields := strings.Fields(after)
		if len(fields) == 0 {
			return 0, fmt.Errorf("process %d shows no proportional set size", one)
		}
		kib, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, err
		}
		total += kib / 1024
	}
	return total, nil
}

// redisCPU is the CPU time that Redis has used, in seconds.
func (s *stage) redisCPU() (float64, error) {
	info, err := s.client.Info(context.Background(), "cpu").Result()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for line := range strings.SplitSeq(info, "\r\n") {
		for _, name := range []string{"used_cpu_sys:", "used_cpu_user:"} {
			if value, is := strings.CutPrefix(line, name); is {
				seconds, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return 0, err
				}
				total += seconds
			}
		}
	}
	return total, nil
}
