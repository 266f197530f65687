// Package tasks knows what becomes of Celery's tasks: an index in memory, made of
// what Redis has (queues, unacknowledged messages, results) and kept by what
// workers say (events, results as they are written). Unlike Flower's it is made
// anew after a restart, and from workers that send no events.
//
// It is bounded: beyond so many tasks the oldest that have ended are forgotten,
// and of a long queue only those are listed that are taken next or came last.
package tasks
