package dashboard

import (
	"context"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/weir-dev/weir/dashboard/tasks"
)

// queueRow is a queue.
type queueRow struct {
	Name               string
	Waiting, Dead      int64
	Running, Delayed   int
	Age                time.Duration
	WaitingPlot        template.HTML
	AgePlot            template.HTML
	Schedules          []string // namespace/name
	Workers            int
	MayDead, Attention bool
}

type queuesData struct {
	Rows   []queueRow
	Search string
	Total  int
}

func (s *Server) queues(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	mine, err := v.holdings(ctx, "", "list")
	if err != nil {
		return nil, err
	}
	found, err := v.schedules(ctx)
	if err != nil {
		return nil, err
	}
	uses := map[string][]string{}
	for i := range found {
		uses[found[i].Spec.Task.Queue] = append(uses[found[i].Spec.Task.Queue], found[i].Namespace+"/"+found[i].Name)
	}
	now := time.Now()
	workers := map[string]int{}
	for _, worker := range s.o.Tasks.Workers() {
		for _, queue := range worker.Queues {
			if !worker.Silent(now) {
				workers[queue]++
			}
		}
	}
	data := queuesData{Search: r.URL.Query().Get("q")}
	for _, queue := range s.o.Tasks.Queues() {
		if !mine.queue(queue.Name) {
			continue
		}
		data.Total++
		if !matches(data.Search, append([]string{queue.Name}, uses[queue.Name]...)...) {
			continue
		}
		row := queueRow{Name: queue.Name, Waiting: queue.Waiting, Dead: queue.DeadLetters, Age: queue.Age.Truncate(time.Second), Schedules: uses[queue.Name], Workers: workers[queue.Name]}
		counts := s.o.Tasks.Count(func(scope tasks.Scope) bool { return scope.Queue == queue.Name })
		row.Running, row.Delayed = counts[tasks.Running], counts[tasks.Delayed]
		row.Attention = row.Waiting > 0 && row.Workers == 0
		var depth, age []point
		for _, sample := range queue.Samples {
			depth = append(depth, point{sample.At, float64(sample.Waiting)})
			age = append(age, point{sample.At, sample.Age.Seconds()})
		}
		row.WaitingPlot = plot("Waiting", depth, tasks.SampledFor, now, func(n float64) string { return number(int64(n)) })
		row.AgePlot = plot("Age of the next", age, tasks.SampledFor, now, func(n float64) string { return duration(time.Duration(n * float64(time.Second))) })
		data.Rows = append(data.Rows, row)
	}
	slices.SortStableFunc(data.Rows, func(a, b queueRow) int { // those in which something waits first
		return -compareBools(a.Waiting+a.Dead > 0 || a.Running > 0, b.Waiting+b.Dead > 0 || b.Running > 0)
	})
	return &view{template: "queues", data: data, title: "Queues", section: "queues"}, nil
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
