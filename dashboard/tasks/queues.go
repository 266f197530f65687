package tasks

import (
	"slices"
	"sync"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

const (
	// SampleInterval of what queues hold, and how long samples are kept.
	SampleInterval = 2 * time.Second
	SampledFor     = time.Hour
	maxSamples     = int(SampledFor / SampleInterval)
	// maxQueues that are looked at, maxNamed with those that PeriodicTasks name.
	maxQueues = 500
	maxNamed  = 10 * maxQueues
)

// Sample of a queue.
type Sample struct {
	At time.Time
	// Waiting messages, and the age of the one that is taken next; Age is less
	// than it is for a message that does not say when it was enqueued.
	Waiting int64
	Age     time.Duration
}

// Queue is what is known of one.
type Queue struct {
	Name string
	Sample
	DeadLetters int64
	// Samples of the last hour, oldest first.
	Samples []Sample
}

type queues struct {
	mu     sync.Mutex
	byName map[string]*queue
}

// queue keeps samples as small as they can be.
type queue struct {
	depth   celery.Depth
	last    Sample
	ring    []packed
	next    int
	scanned time.Time // all of it; zero: it has changed since
	// same: what waits is what was scanned.
	same bool
}

type packed struct {
	unix    int64
	waiting int32
	age     float32 // seconds
}

// names of all, in order.
func (q *queues) names() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	names := make([]string, 0, len(q.byName))
	for name := range q.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// know adds queues that are not known yet, while fewer than most are.
func (q *queues) know(names []string, most int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, name := range names {
		if q.byName[name] == nil && len(q.byName) < most && celery.CheckQueue(name) == nil {
			q.byName[name] = &queue{}
		}
	}
}

// observe takes a queue's depth, and says whether it has changed.
func (q *queues) observe(name string, depth celery.Depth, age time.Duration, now time.Time) (changed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	one := q.byName[name]
	changed = depth.Waiting != one.depth.Waiting || !slices.Equal(depth.Heads, one.depth.Heads)
	one.same = one.same && !changed
	one.depth, one.last = depth, Sample{now, depth.Waiting, age}
	if n := len(one.ring); n > 0 && now.Unix()-one.ring[(one.next+n-1)%n].unix < int64(SampleInterval/time.Second) {
		return changed
	}
	sample := packed{now.Unix(), int32(min(depth.Waiting, 1<<31-1)), float32(age.Seconds())}
	if len(one.ring) < maxSamples {
		one.ring = append(one.ring, sample)
		one.next = len(one.ring) % maxSamples
	} else {
		one.ring[one.next] = sample
		one.next = (one.next + 1) % maxSamples
	}
	return changed
}

// due says which queues must be read again, and those that are as they were read.
func (q *queues) due(interval time.Duration, now time.Time) (due, same []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, one := range q.byName {
		switch {
		case one.same:
			same = append(same, name)
		case now.Sub(one.scanned) >= interval:
			due = append(due, name)
		}
	}
	return due, same
}

// read says that a queue has been read, unread that it could not be.
func (q *queues) read(name string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.byName[name].scanned, q.byName[name].same = at, true
}

func (q *queues) unread(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.byName[name].scanned, q.byName[name].same = time.Time{}, false
}

func (q *queues) list() []Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]Queue, 0, len(q.byName))
	for name, one := range q.byName {
		listed := Queue{Name: name, Sample: one.last, DeadLetters: one.depth.DeadLetters}
		for i := range one.ring {
			p := one.ring[(one.next+i)%len(one.ring)]
			if len(one.ring) < maxSamples {
				p = one.ring[i]
			}
			listed.Samples = append(listed.Samples, Sample{time.Unix(p.unix, 0), int64(p.waiting), time.Duration(float64(p.age) * float64(time.Second))})
		}
		all = append(all, listed)
	}
	slices.SortFunc(all, func(a, b Queue) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}
