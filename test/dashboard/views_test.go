package dashboard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: bondhu}
---
apiVersion: weir.dev/v1alpha1
kind: PeriodicTask
metadata: {name: hourly-sentiment, namespace: bondhu}
spec:
  schedule: "0 * * * *"
  timeZone: Asia/Kolkata
  concurrencyPolicy: Forbid
  task: {name: debug_task, queue: personality, kwargs: {sleep: 0.2, user: "user_42"}, retry: {maxRetries: 0}}
---
apiVersion: weir.dev/v1alpha1
kind: PeriodicTask
metadata: {name: nightly-report, namespace: bondhu}
spec:
  schedule: "15 2 * * *"
  suspend: true
  task: {name: debug_task, queue: reports, kwargs: {fail: "no report today"}, retry: {maxRetries: 0}}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: spotify, namespace: bondhu}
spec:
  direction: Outbound
  hosts: [api.spotify.com]
  identity: {sources: [{header: {name: X-User-ID}}]}
  limits: [{requests: 100, window: 1m}]
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: openai, namespace: bondhu}
spec:
  direction: Outbound
  hosts: [api.openai.com]
  mode: Observe
  identity: {sources: [{header: {name: X-User-ID}}]}
  limits: [{requests: 3000, window: 1m}, {requests: 50000, window: 1h}]
`

func TestViews(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	w.startOperator()
	w.startWorker("sentiment-7d9f", "personality,reports", "--concurrency", "4", "--max-retries", "0")
	token := w.admin()
	b := w.browser(t)

	t.Run("who has no token is asked for one", func(t *testing.T) {
		b.open("/tasks?state=failed")
		b.sees("You see and do here what Kubernetes lets you.")
		b.picture("login")
		b.accessible(t, "login")
	})
	b.signIn(token)
	t.Run("schedules, and a run now", func(t *testing.T) {
		b.sees("hourly-sentiment")
		b.sees("suspended")
		b.open("/schedules/bondhu/hourly-sentiment")
		b.sees("the next is left out")
		b.press("Run now")
		b.sees("Enqueued debug_task on personality.")
		b.sees("succeeded")
		b.sees("user_42")
		b.sees("weir@sentiment-7d9f")
		b.open("/schedules/bondhu/nightly-report")
		b.press("Run now")
		b.sees("failed")
		b.sees("no report today")
	})
	w.fill()
	for _, v := range []struct{ name, path, says string }{
		{"limits", "/limits", "50000/1h"},
		{"limit", "/limits/bondhu/openai", "api.openai.com"},
		{"schedules", "/schedules", "hourly-sentiment"},
		{"schedule", "/schedules/bondhu/hourly-sentiment", "Conditions"},
		{"queues", "/queues", "personality"},
		{"workers", "/workers", "weir@sentiment-7d9f"},
		{"tasks", "/tasks", "debug_task"},
		{"tasks-failed", "/tasks?state=failed", "no report today"},
		{"task", "/tasks/parent", "Children"},
		{"task-failed", "/tasks/broken", "ValueError"},
		{"dead", "/dead", "exhausted"},
		{"empty", "/tasks?q=nothing-like-this", "No task matches."},
	} {
		t.Run(v.name, func(t *testing.T) {
			b.open(v.path)
			b.sees(v.says)
			b.sees("Live")
			b.accessible(t, v.name)
			b.picture(v.name)
			b.darkAndNarrow(t, v.name, v.name)
		})
	}
}

// fill has some of every kind of task in Redis.
func (w *world) fill() {
	w.t.Helper()
	c, err := w.broker.NewConsumer(celery.ConsumerOptions{Queues: []string{"analysis"}, Hostname: "weir@analysis-0"})
	must(w.t, err)
	for i := range 24 {
		id := fmt.Sprintf("child-%02d", i)
		if i == 0 {
			id = "parent"
		}
		call := celery.Signature{ID: id, Task: "analyze_chat_sentiment_batch", Queue: "analysis", Kwargs: map[string]any{"user_id": fmt.Sprintf("user_%d", 40+i), "window": "24h"}, PeriodicTask: "bondhu/hourly-sentiment"}
		if i > 0 {
			call.ParentID = "parent"
		}
		if i == 23 {
			call.ID = "broken"
		}
		w.enqueue(call)
	}
	ctx := w.t.Context()
	for i := range 20 {
		taken, err := c.Take(ctx, 1)
		must(w.t, err)
		d := &taken[0]
		d.BeganAt = time.Now().Add(-time.Duration(130*(i+1)) * time.Millisecond)
		outcome := celery.Outcome{State: celery.Success, Value: []byte(`{"user_id":"` + d.ID + `","score":0.71,"messages":42}`)}
		_, err = c.Finish(ctx, []celery.Ending{c.End(d, outcome, nil, time.Hour)})
		must(w.t, err)
	}
	// Two run, two are left to wait.
	_, err = c.Take(ctx, 1)
	must(w.t, err)
	w.enqueue(celery.Signature{ID: "slow", Task: "debug_task", Queue: "personality", Kwargs: map[string]any{"sleep": 300}})
	w.dead("broken")
	w.enqueue(celery.Signature{ID: "later", Task: "debug_task", Queue: "reports", ETA: time.Now().Add(20 * time.Minute)})
}

// dead lets a call fail as one of Python's does.
func (w *world) dead(id string) {
	w.t.Helper()
	c, err := w.broker.NewConsumer(celery.ConsumerOptions{Queues: []string{"analysis"}, Hostname: "celery@legacy"})
	must(w.t, err)
	for {
		taken, err := c.Take(w.t.Context(), 1)
		must(w.t, err)
		if len(taken) == 0 {
			w.t.Fatalf("%s is not in its queue", id)
		}
		d := &taken[0]
		ending := c.GiveBack(d)
		if d.ID == id {
			d.BeganAt = time.Now().Add(-3 * time.Second)
			ending = c.Dead(d, celery.Outcome{State: celery.Failure, Err: fmt.Errorf("could not convert string to float: 'n/a'"), ErrType: "ValueError"}, "exhausted", time.Now(), time.Hour)
		}
		_, err = c.Finish(w.t.Context(), []celery.Ending{ending})
		must(w.t, err)
		if d.ID == id {
			return
		}
		if strings.HasPrefix(d.ID, "child") {
			_, err = c.Take(w.t.Context(), 1) // let it run, out of the way
			must(w.t, err)
		}
	}
}
