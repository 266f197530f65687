package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weir-dev/weir/worker/runner"
)

const (
	// maxEchoBytes bounds the arguments that debug_task repeats.
	maxEchoBytes = 4 << 10
	maxSleep     = time.Hour
)

// debugResult repeats a call.
type debugResult struct {
	ID      string                     `json:"id"`
	Task    string                     `json:"task"`
	Queue   string                     `json:"queue"`
	Retries int                        `json:"retries"`
	Args    []json.RawMessage          `json:"args"`
	Kwargs  map[string]json.RawMessage `json:"kwargs"`
	// Truncated: the arguments are longer than 4 KiB, and are not repeated.
	Truncated bool `json:"truncated"`
}

// debugTask is debug_task: it takes whatever it is given and repeats it. Of its
// keyword arguments `sleep` makes it last so many seconds, and `fail` makes it
// fail with that text.
func debugTask(ctx context.Context, call *runner.Call) (any, error) {
	args, kwargs := call.Arguments()
	seconds, fail := 0.0, ""
	if raw, given := kwargs["sleep"]; given {
		if json.Unmarshal(raw, &seconds) != nil || !(seconds >= 0 && seconds <= maxSleep.Seconds()) {
			return nil, argumentError(call, "sleep", fmt.Errorf("must be seconds, from 0 to %d", int(maxSleep.Seconds())))
		}
	}
	if raw, given := kwargs["fail"]; given && json.Unmarshal(raw, &fail) != nil {
		return nil, argumentError(call, "fail", errors.New("must be a string"))
	}
	if seconds > 0 {
		timer := time.NewTimer(time.Duration(seconds * float64(time.Second)))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if fail != "" {
		return nil, fmt.Errorf("debug_task was told to fail: %.1000s", fail)
	}
	result := debugResult{ID: call.ID, Task: call.Task, Queue: call.Queue, Retries: call.Retries, Args: args, Kwargs: kwargs}
	size := 0
	for _, raw := range args {
		size += len(raw)
	}
	for name, raw := range kwargs {
		size += len(name) + len(raw)
	}
	if size > maxEchoBytes {
		result.Args, result.Kwargs, result.Truncated = nil, nil, true
	}
	return result, nil
}
