package tasks

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// Worker is one that said something.
type Worker struct {
	Hostname          string
	Software, Version string
	// Heard is when it said something last; Offline: that it ends.
	Heard   time.Time
	Offline bool
	// Active are the calls that it runs, Processed those that ended, Concurrency
	// those that it runs at once; 0 where it did not say.
	Active      int
	Processed   int64
	Concurrency int
	// Queues that it takes from; nil: it did not say.
	Queues []string

	// inspected is when it last said what it runs.
	inspected time.Time
}

// Silent after so long: a worker says each two seconds that it is there.
const silentAfter = 10 * time.Second

// forgottenAfter is when a worker that ended or is silent is listed no more.
const forgottenAfter = 10 * time.Minute

// Silent says whether it should have said something.
func (w *Worker) Silent(now time.Time) bool { return w.Offline || now.Sub(w.Heard) > silentAfter }

// maxWorkers that are listed.
const maxWorkers = 2000

type workers struct {
	mu     sync.Mutex
	byName map[string]*Worker
}

func (w *workers) change(hostname string, now time.Time, f func(*Worker)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.byName[hostname]
	if one == nil {
		if len(w.byName) >= maxWorkers {
			return
		}
		one = &Worker{Hostname: strings.Clone(hostname)}
		w.byName[one.Hostname] = one
	}
	one.Heard = now
	f(one)
}

// events takes what workers said of themselves.
func (w *workers) events(heard []celery.Heard, now time.Time) {
	for i := range heard {
		h := &heard[i]
		if !strings.HasPrefix(h.Type, "worker-") || h.Hostname == "" {
			continue
		}
		w.change(h.Hostname, now, func(one *Worker) {
			one.Offline = h.Type == "worker-offline"
			one.Active, one.Processed, one.Software, one.Version = h.Active, h.Processed, strings.Clone(h.Software), strings.Clone(h.Version)
		})
	}
}

// list are the workers by name, without those that are long gone.
func (w *workers) list(now time.Time) []Worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Worker
	for name, one := range w.byName {
		if now.Sub(one.Heard) > forgottenAfter {
			delete(w.byName, name)
			continue
		}
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Worker) int { return strings.Compare(a.Hostname, b.Hostname) })
	return all
}

func (w *workers) get(hostname string) (Worker, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one := w.byName[hostname]; one != nil {
		return *one, true
	}
	return Worker{}, false
}

// stats takes the answers to "stats", queues those to "active_queues".
func (w *workers) stats(answers map[string]json.RawMessage, now time.Time) {
	for hostname, answer := range answers {
		var said struct {
			Pool struct {
				Concurrency int `json:"max-concurrency"`
			} `json:"pool"`
		}
		if json.Unmarshal(answer, &said) == nil {
			w.change(hostname, now, func(one *Worker) { one.Concurrency = said.Pool.Concurrency })
		}
	}
}

func (w *workers) queues(answers map[string]json.RawMessage, now time.Time) {
	for hostname, answer := range answers {
		var said []struct {
			Name string `json:"name"`
		}
		if json.Unmarshal(answer, &said) != nil {
			continue
		}
		w.change(hostname, now, func(one *Worker) {
			one.Queues = []string{}
			for _, queue := range said {
				one.Queues = append(one.Queues, queue.Name)
			}
		})
	}
}
