package runner

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// heartbeatInterval of a worker, as in Celery.
const heartbeatInterval = 2 * time.Second

// maxEvents are sent in one exchange.
const maxEvents = 200

// event queues an event about a call, if somebody listens. When events come
// faster than they can be sent they are dropped: they only tell.
func (r *Runner) event(make func() celery.Event) {
	if !r.watched.Load() {
		return
	}
	select {
	case r.events <- make():
	default:
		r.metrics.droppedEvents.Inc()
	}
}

// sendEvents sends what is queued, and tells that the worker is there.
func (r *Runner) sendEvents(ctx context.Context) {
	r.tell(ctx, "worker-online")
	heartbeat := time.NewTicker(heartbeatInterval)
	defer heartbeat.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			r.sendBatch(last, nil)
			r.tell(last, "worker-offline")
			return
		case <-heartbeat.C:
			r.tell(ctx, "worker-heartbeat")
		case <-look.C:
			if watched, err := r.sender.Watched(ctx); err == nil {
				r.watched.Store(watched)
			}
		case first := <-r.events:
			r.sendBatch(ctx, []celery.Event{first})
		}
	}
}

// sendBatch sends the batch and what else is queued.
func (r *Runner) sendBatch(ctx context.Context, batch []celery.Event) {
	for len(batch) < maxEvents {
		select {
		case next := <-r.events:
			batch = append(batch, next)
			continue
		default:
		}
		break
	}
	if len(batch) == 0 {
		return
	}
	if err := r.sender.Send(ctx, batch...); err != nil {
		r.metrics.droppedEvents.Add(float64(len(batch)))
	}
}

// tell sends an event about the worker itself.
func (r *Runner) tell(ctx context.Context, eventType string) {
	active, processed := r.counts()
	_ = r.sender.Send(ctx, celery.Event{Type: eventType, Fields: map[string]any{ // the next one will tell
		"freq": heartbeatInterval.Seconds(), "active": active, "processed": processed,
		"sw_ident": "weir", "sw_ver": "1", "sw_sys": "Linux", "loadavg": []float64{0, 0, 0},
	}})
}

// counts are the calls that run, and all that have ended.
func (r *Runner) counts() (active int, processed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, total := range r.totals {
		processed += total
	}
	return len(r.running), processed
}

func received(d *celery.Delivery) celery.Event {
	fields := map[string]any{
		"uuid": d.ID, "name": d.Task, "args": represent(d.Args), "kwargs": represent(d.Kwargs),
		"root_id": d.RootID, "parent_id": nil, "retries": d.Retries, "eta": nil, "expires": nil,
		"queue": d.Queue, "periodic_task": d.PeriodicTask, // Celery passes over these
	}
	if d.ParentID != "" {
		fields["parent_id"] = d.ParentID
	}
	return celery.Event{Type: "task-received", Fields: fields}
}

func succeeded(d *celery.Delivery, result json.RawMessage, elapsed time.Duration) celery.Event {
	return celery.Event{Type: "task-succeeded", Fields: map[string]any{
		"uuid": d.ID, "result": cut(string(result)), "runtime": elapsed.Seconds(),
	}}
}

func unsuccessful(eventType string, d *celery.Delivery, err error) celery.Event {
	return celery.Event{Type: eventType, Fields: map[string]any{
		"uuid": d.ID, "exception": "Exception(" + strconv.Quote(cut(err.Error())) + ")", "traceback": cut(err.Error()),
	}}
}

// represent is what events and inspect show of arguments.
func represent(arguments any) string {
	text, err := json.Marshal(arguments)
	if err != nil {
		return ""
	}
	return cut(string(text))
}

const maxShown = 1024

func cut(text string) string {
	if len(text) > maxShown {
		return text[:maxShown] + "..."
	}
	return text
}
