package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// control answers `celery inspect` and heeds `celery control revoke`.
func (r *Runner) control(ctx context.Context) {
	r.c.Broker.Commands(ctx, func(command *celery.Command) {
		if !command.For(r.c.Hostname) {
			return
		}
		answer, known := r.obey(ctx, command)
		if !known {
			answer = map[string]any{"error": fmt.Sprintf("Weir's workers do not know %.64q", command.Method)}
		}
		if err := r.c.Broker.Reply(ctx, command, r.c.Hostname, answer); err != nil {
			r.c.Logger.Warn("remote control got no answer", "method", command.Method, "error", err.Error())
		}
	}, func(err error) { r.c.Logger.Warn("remote control sent what cannot be read", "error", err.Error()) })
}

// obey carries a command out.
func (r *Runner) obey(ctx context.Context, command *celery.Command) (answer any, known bool) {
	switch command.Method {
	case "ping":
		return map[string]string{"ok": "pong"}, true
	case "active":
		return r.active(), true
	case "registered", "registered_tasks":
		return r.c.Registry.Names(), true
	case "stats":
		return r.stats(), true
	case "active_queues":
		queues := []map[string]any{}
		for _, queue := range r.c.Queues {
			queues = append(queues, map[string]any{"name": queue, "routing_key": queue, "exchange": map[string]string{"name": "", "type": "direct"}})
		}
		return queues, true
	case "scheduled", "reserved", "revoked":
		return []any{}, true // none is held in memory
	case "revoke":
		return r.revoke(ctx, command), true
	}
	return nil, false
}

// revoke remembers ids, and with terminate ends what runs.
func (r *Runner) revoke(ctx context.Context, command *celery.Command) map[string]string {
	var ids []string
	if json.Unmarshal(command.Arguments["task_id"], &ids) != nil {
		var id string
		if err := json.Unmarshal(command.Arguments["task_id"], &id); err != nil {
			return map[string]string{"error": "revoke wants a task_id"}
		}
		ids = []string{id}
	}
	var terminate bool
	_ = json.Unmarshal(command.Arguments["terminate"], &terminate) // absent: no
	if err := r.c.Broker.Remember(ctx, ids...); err != nil {
		return map[string]string{"error": err.Error()}
	}
	ended := 0
	for _, one := range r.snapshot() {
		if terminate && one.Message != nil && slices.Contains(ids, one.ID) {
			one.cancel(ErrRevoked)
			ended++
		}
	}
	return map[string]string{"ok": fmt.Sprintf("%d revoked, %d terminated", len(ids), ended)}
}

func (r *Runner) active() []map[string]any {
	calls := []map[string]any{}
	for _, one := range r.snapshot() {
		if one.Message == nil {
			continue
		}
		calls = append(calls, map[string]any{
			"id": one.ID, "name": one.Task, "type": one.Task, "args": represent(one.Args), "kwargs": represent(one.Kwargs),
			"hostname": r.c.Hostname, "time_start": float64(one.BeganAt.UnixMicro()) / 1e6, "acknowledged": false,
			"delivery_info": map[string]any{"exchange": "", "routing_key": one.Queue, "priority": one.Priority, "redelivered": nil},
			"worker_pid":    os.Getpid(),
		})
	}
	return calls
}

func (r *Runner) stats() map[string]any {
	r.mu.Lock()
	total := map[string]int64{}
	for task, n := range r.totals {
		total[task] = n
	}
	r.mu.Unlock()
	return map[string]any{
		"total": total, "pid": os.Getpid(), "clock": "1", "uptime": int(time.Since(r.started).Seconds()),
		"pool":           map[string]any{"implementation": "weir", "max-concurrency": r.c.Concurrency, "processes": []int{os.Getpid()}},
		"broker":         map[string]any{"transport": "redis"},
		"prefetch_count": r.c.Concurrency,
	}
}
