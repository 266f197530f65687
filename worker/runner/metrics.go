package runner

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/worker/celery"
)

// observeInterval is how often the depth of the queues is read.
const observeInterval = 5 * time.Second

// metrics of a worker. Tasks are those that it knows, so labels are bounded.
type metrics struct {
	runs          *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	endings       *prometheus.CounterVec
	depth, oldest *prometheus.GaugeVec
	letters       *prometheus.GaugeVec
	recovered     *prometheus.CounterVec
	lost          prometheus.Counter
	droppedEvents prometheus.Counter

	r *Runner
	// firstSeen is when a message was first seen at its queue's head.
	firstSeen map[string]time.Time
}

func newMetrics(registerer prometheus.Registerer, r *Runner) *metrics {
	m := &metrics{
		r: r, firstSeen: map[string]time.Time{},
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_worker_runs_total", Help: "Runs of tasks by how they ended: success, retry or failure.",
		}, []string{"task", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_worker_run_duration_seconds", Help: "Duration of runs.",
			Buckets: []float64{.001, .01, .1, .5, 1, 5, 15, 60, 300, 900, 3600},
		}, []string{"task"}),
		endings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_worker_not_run_total", Help: "Messages that did not end in a success, by what became of them: retried, exhausted, failed, unreadable, unsupported, unknown (dead letters), passed (to other workers), parked, expired, revoked, given back.",
		}, []string{"queue", "outcome"}),
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_worker_queue_messages", Help: "Messages that wait in the queue.",
		}, []string{"queue"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_worker_queue_oldest_seconds", Help: "Age of the message that is taken next; of Celery's messages, which have no date, since it was first seen there.",
		}, []string{"queue"}),
		letters: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_worker_dead_letters", Help: "Dead letters of the queue that are kept.",
		}, []string{"queue"}),
		recovered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_worker_restored_total", Help: "Messages put back: due (parked until their eta), abandoned (their worker ended) or crashed (to the dead letters).",
		}, []string{"reason"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_worker_lost_total", Help: "Calls that ended here after they had been given to another worker: they run twice.",
		}),
		droppedEvents: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_worker_events_dropped_total", Help: "Celery events that were not sent.",
		}),
	}
	registerer.MustRegister(m.runs, m.duration, m.endings, m.depth, m.oldest, m.letters, m.recovered, m.lost, m.droppedEvents,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_worker_running", Help: "Calls that run, or whose end is not acknowledged yet.",
		}, func() float64 { active, _ := r.counts(); return float64(active) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_worker_broker_up", Help: "1 while Redis answers.",
		}, func() float64 {
			if r.broker.up() {
				return 1
			}
			return 0
		}))
	return m
}

func (m *metrics) ran(task, result string, elapsed time.Duration) {
	m.runs.WithLabelValues(task, result).Inc()
	m.duration.WithLabelValues(task).Observe(elapsed.Seconds())
	m.r.mu.Lock()
	m.r.totals[task]++
	m.r.mu.Unlock()
}

func (m *metrics) ended(d *celery.Delivery, outcome string) {
	m.endings.WithLabelValues(d.Queue, outcome).Inc()
}

func (m *metrics) restored(r celery.Restored) {
	m.recovered.WithLabelValues("due").Add(float64(r.Due))
	m.recovered.WithLabelValues("abandoned").Add(float64(r.Overdue))
	m.recovered.WithLabelValues("crashed").Add(float64(r.Dead))
}

// observe reads the depth of the queues now and then.
func (r *Runner) observe(ctx context.Context) {
	look := func() {
		depths, err := r.c.Broker.Depths(ctx, r.c.Queues)
		r.broker.heard(err)
		if err != nil {
			return
		}
		r.metrics.show(r.c.Queues, depths, time.Now())
	}
	look()
	every(ctx, observeInterval, look)
}

func (m *metrics) show(queues []string, depths []celery.Depth, now time.Time) {
	seen := map[string]time.Time{}
	for i, d := range depths {
		var oldest time.Duration
		for _, head := range d.Heads {
			since := head.EnqueuedAt
			if since.IsZero() {
				since = now
				if before, known := m.firstSeen[head.ID]; known {
					since = before
				}
				seen[head.ID] = since
			}
			oldest = max(oldest, now.Sub(since))
		}
		m.depth.WithLabelValues(queues[i]).Set(float64(d.Waiting))
		m.oldest.WithLabelValues(queues[i]).Set(oldest.Seconds())
		m.letters.WithLabelValues(queues[i]).Set(float64(d.DeadLetters))
	}
	m.firstSeen = seen
}
