// Package celery speaks Celery's protocol over Redis: messages (protocol 2),
// queues, results, events and remote control, as kombu's Redis transport and
// Celery's Redis result backend keep them. Python workers and ours share all of
// it.
//
// Celery's keys, which this package reads and writes as Celery does:
//
//	<queue>, <queue>\x06\x16{3,6,9}   LIST  messages; taken from the right. Priority 0, the first, is the bare name
//	unacked                           HASH  tag -> [message, exchange, routing key]: taken, not acknowledged
//	unacked_index                     ZSET  tag -> when it was taken, Unix seconds
//	celery-task-meta-<id>             STRING result, published on a channel of that name too
//	/<db>.celeryev/<type>             channel of events
//	/<db>.celery.pidbox               channel of remote control
//
// Keys of ours beside them:
//
//	weir.running          ZSET    tag -> last heartbeat of what our workers run
//	weir.revoked          ZSET    id -> until when it is remembered as revoked
//	weir.once.<id>        SET     ids that a call, or an occurrence, has enqueued already
//	weir.periodic.<ns>/<name>  HASH  the last occurrence of a PeriodicTask
//	weir.dead.<queue>     LIST    dead letters, newest first
//
// What differs from Celery's own client, without harm to it:
//
//   - A message is taken atomically: it is in its queue or in unacked, never
//     only in a worker's memory.
//   - A message with an eta is parked in unacked with a score so old that every
//     worker, Celery's too, puts it back into the queue when it is due: a score
//     of eta − visibility timeout.
//   - What our workers run is in weir.running too, with a heartbeat. A worker
//     that dies is noticed after the lease of half a minute, not after the
//     visibility timeout of an hour.
//
// Every change is one Lua script, so that a process that dies between two
// commands loses nothing. Redis 6.2 or newer, alone or behind Sentinel. Redis
// Cluster is refused: Celery's keys do not share a slot.
package celery
