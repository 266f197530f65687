package celery

import (
	"context"
	"time"
)

// Concurrency says what becomes of an occurrence while the run before is not
// finished. The values are CronJob's.
type Concurrency string

// The policies.
const (
	// Allow lets runs overlap.
	Allow Concurrency = "Allow"
	// Forbid leaves the new occurrence out.
	Forbid Concurrency = "Forbid"
	// Replace revokes the run before, and ends it where it runs.
	Replace Concurrency = "Replace"
)

// Enqueued is what became of an occurrence.
type Enqueued string

// The results of EnqueueOccurrence.
const (
	// New: the message is in the queue.
	New Enqueued = "enqueued"
	// Repeated: it was enqueued, or left out, before.
	Repeated Enqueued = "repeated"
	// Skipped: the run before is not finished (Forbid).
	Skipped Enqueued = "skipped"
	// Replaced: it is in the queue, and the run before is revoked (Replace).
	Replaced Enqueued = "replaced"
)

// periodicTTL is how long a PeriodicTask's last occurrence is remembered: longer
// than the longest that cron can say is a year.
const periodicTTL = 400 * 24 * time.Hour

// DefaultTimeLimit bounds a run where nobody says otherwise.
const DefaultTimeLimit = time.Hour

// OccurrenceID is the id of the message of an occurrence: of the PeriodicTask
// with this uid, made by the Job of this name and UID. All pods of a Job make
// the same.
func OccurrenceID(uid, job, jobUID string) string { return DeriveID("occurrence/"+uid, job+"/"+jobUID) }

// EnqueueOccurrence enqueues the call of a PeriodicTask's occurrence, once for
// its id, and writes its PENDING. before is the id of the run before, if any.
func (b *Broker) EnqueueOccurrence(ctx context.Context, call Signature, job string, policy Concurrency) (became Enqueued, before string, err error) {
	if err := CheckQueue(call.Queue); err != nil {
		return "", "", err
	}
	now := time.Now()
	message, err := call.Encode(now, origin)
	if err != nil {
		return "", "", err
	}
	ttl := call.ResultTTL
	if ttl <= 0 {
		ttl = DefaultResultTTL
	}
	keys := []string{
		b.keys.periodic(call.PeriodicTask), b.keys.once(call.ID), b.keys.list(call.Queue, call.Priority),
		b.keys.result(call.ID), b.keys.revoked(),
	}
	pending := Outcome{State: Pending}.encode(of{call: call.message(now), queue: call.Queue}, now)
	reply, err := occurrenceScript.Run(ctx, b.client, keys,
		call.ID, job, message, pending, ttl.Milliseconds(), string(policy), periodicTTL.Milliseconds(),
		b.keys.result(""), unfinishedFor(&call, now, ttl).Milliseconds(), onceTTL.Milliseconds()).StringSlice()
	if err != nil {
		return "", "", b.explain("enqueuing the occurrence "+call.ID, err)
	}
	became, before = Enqueued(reply[0]), reply[1]
	if became == Replaced {
		// Workers that run it now hear of it; those that take it later read it.
		if err := b.broadcast(ctx, "revoke", map[string]any{"task_id": before, "terminate": true, "signal": "SIGTERM"}); err != nil {
			return became, before, err
		}
	}
	return became, before, nil
}

// unfinishedFor is how long a run without an end still counts as unfinished. A
// message can be lost, by a Celery worker that dies, say: it must not hold
// later ones back for ever.
func unfinishedFor(call *Signature, now time.Time, resultTTL time.Duration) time.Duration {
	if call.Expires.IsZero() {
		return resultTTL
	}
	limit := call.TimeLimit
	if limit <= 0 {
		limit = DefaultTimeLimit
	}
	tries := time.Duration(1)
	backoff := time.Duration(0)
	if call.Retry != nil {
		tries += time.Duration(call.Retry.MaxRetries)
		backoff = time.Duration(call.Retry.MaxRetries) * call.Retry.MaxBackoff
	}
	return min(call.Expires.Sub(now)+tries*limit+backoff, resultTTL)
}
