package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
)

// enqueueTimeout bounds the command: its Job tries again.
const enqueueTimeout = 30 * time.Second

// enqueueOptions are one occurrence of a PeriodicTask.
type enqueueOptions struct {
	call         celery.Signature
	args, kwargs string
	retry        celery.RetryPolicy
	expiresAfter time.Duration
	policy       string
	uid          string
	job, jobUID  string
}

func enqueueCommand(flags *flag.FlagSet, args []string, stdout, stderr io.Writer) error {
	o := enqueueOptions{job: os.Getenv("WEIR_JOB_NAME"), jobUID: os.Getenv("WEIR_JOB_UID")}
	flags.StringVar(&o.call.Task, "task", "", "name of the task")
	flags.StringVar(&o.args, "args", "[]", "its positional arguments, a JSON array")
	flags.StringVar(&o.kwargs, "kwargs", "{}", "its keyword arguments, a JSON object")
	flags.StringVar(&o.call.Queue, "queue", "celery", "queue that it goes to")
	flags.IntVar(&o.call.Priority, "priority", 0, "0 (first) to 9")
	flags.DurationVar(&o.call.SoftTimeLimit, "soft-time-limit", 0, "when a run is asked to end; 0: never")
	flags.DurationVar(&o.call.TimeLimit, "time-limit", 0, "when a run has failed; 0: the worker's")
	flags.DurationVar(&o.expiresAfter, "expires-after", 0, "not run when it is taken later than this; 0: never expires")
	flags.IntVar(&o.retry.MaxRetries, "max-retries", -1, "how often a failed run is tried again; -1: the worker's retry policy")
	flags.DurationVar(&o.retry.InitialBackoff, "initial-backoff", 10*time.Second, "time before the first retry, doubled for each")
	flags.DurationVar(&o.retry.MaxBackoff, "max-backoff", 10*time.Minute, "longest time before a retry")
	flags.DurationVar(&o.call.ResultTTL, "result-ttl", celery.DefaultResultTTL, "how long the result is kept")
	flags.StringVar(&o.policy, "concurrency-policy", string(celery.Allow), "Allow, Forbid or Replace, while the run before is not finished")
	flags.StringVar(&o.call.PeriodicTask, "periodic-task", "", "namespace/name of the PeriodicTask")
	flags.StringVar(&o.uid, "uid", "", "UID of the PeriodicTask")
	flags.StringVar(&o.job, "job", o.job, "name of the Job, from which the message's id is derived (default WEIR_JOB_NAME)")
	flags.StringVar(&o.jobUID, "job-uid", o.jobUID, "UID of the Job: another one of the same name enqueues anew (default WEIR_JOB_UID)")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := o.check(time.Now()); err != nil {
		return usageError{err}
	}
	broker, err := openBroker(celery.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), enqueueTimeout)
	defer cancel()
	tracer, endTraces := openTracer(nil, slog.New(slog.NewJSONHandler(stderr, nil)))
	defer endTraces()
	var span *tracing.Span
	o.call.Trace, span = tracer.Start(tracing.Context{}, tracing.Producer, celery.SpanEnqueue+o.call.Task)
	defer span.End() // before what is left is sent
	celery.DescribeEnqueue(span, &o.call)
	span.Set(tracing.Text("messaging.message.id", o.call.ID))
	became, before, err := broker.EnqueueOccurrence(ctx, o.call, o.job, celery.Concurrency(o.policy))
	if err != nil {
		span.Fail("_OTHER")
		return err
	}
	span.Set(tracing.Text("weir.enqueued", string(became)))
	_, err = fmt.Fprintln(stdout, o.say(became, before))
	return err
}

// check completes the call, and names the flag that cannot be obeyed.
func (o *enqueueOptions) check(now time.Time) error {
	if o.call.Task == "" || o.job == "" || o.uid == "" || strings.Count(o.call.PeriodicTask, "/") != 1 {
		return errors.New("--task, --periodic-task namespace/name, --uid and --job (or WEIR_JOB_NAME) are required")
	}
	// Values stay as they are written: an id of 18 digits is no float.
	var values []json.RawMessage
	if err := json.Unmarshal([]byte(o.args), &values); err != nil {
		return fmt.Errorf("--args is no JSON array: %w", err)
	}
	for _, value := range values {
		o.call.Args = append(o.call.Args, value)
	}
	var named map[string]json.RawMessage
	if err := json.Unmarshal([]byte(o.kwargs), &named); err != nil {
		return fmt.Errorf("--kwargs is no JSON object: %w", err)
	}
	o.call.Kwargs = map[string]any{}
	for name, value := range named {
		o.call.Kwargs[name] = value
	}
	if err := celery.CheckQueue(o.call.Queue); err != nil {
		return fmt.Errorf("--queue: %w", err)
	}
	if o.call.Priority < 0 || o.call.Priority > 9 {
		return fmt.Errorf("--priority is %d: want 0 to 9", o.call.Priority)
	}
	switch celery.Concurrency(o.policy) {
	case celery.Allow, celery.Forbid, celery.Replace:
	default:
		return fmt.Errorf("--concurrency-policy is %q: want Allow, Forbid or Replace", o.policy)
	}
	for name, d := range map[string]time.Duration{
		"soft-time-limit": o.call.SoftTimeLimit, "time-limit": o.call.TimeLimit, "expires-after": o.expiresAfter,
		"initial-backoff": o.retry.InitialBackoff, "max-backoff": o.retry.MaxBackoff, "result-ttl": o.call.ResultTTL,
	} {
		if d < 0 {
			return fmt.Errorf("--%s is %v: want no negative duration", name, d)
		}
	}
	o.call.ID = celery.OccurrenceID(o.uid, o.job, o.jobUID)
	if o.expiresAfter > 0 {
		o.call.Expires = now.Add(o.expiresAfter)
	}
	if o.retry.MaxRetries >= 0 {
		o.call.Retry = &o.retry
	}
	return nil
}

// say is one line for the Job's log.
func (o *enqueueOptions) say(became celery.Enqueued, before string) string {
	switch became {
	case celery.Skipped:
		return fmt.Sprintf("left out: the run before, %s, is not finished (concurrencyPolicy: Forbid)", before)
	case celery.Replaced:
		return fmt.Sprintf("enqueued %s as %s on %s, and revoked %s, which was not finished (concurrencyPolicy: Replace)", o.call.Task, o.call.ID, o.call.Queue, before)
	case celery.Repeated:
		return fmt.Sprintf("done already by an earlier pod of this Job: %s", o.call.ID)
	default:
		return fmt.Sprintf("enqueued %s as %s on %s", o.call.Task, o.call.ID, o.call.Queue)
	}
}
