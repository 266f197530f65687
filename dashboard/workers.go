package dashboard

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/weir-dev/weir/dashboard/tasks"
)

const (
	// runningListed are the tasks that are shown of one worker.
	runningListed = 20
	// maxSlots are drawn of one.
	maxSlots = 16
)

// workerRow is a worker, with what it runs.
type workerRow struct {
	tasks.Worker
	Silent  bool
	Running []tasks.Task
	// Slots, true where one is used; nil: it did not say how many it has. Of many
	// each is for several.
	Slots []bool
}

type workersData struct {
	Rows   []workerRow
	Search string
	Total  int
	Silent int
}

func (s *Server) workers(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	mine, err := v.holdings(ctx, "", "list")
	if err != nil {
		return nil, err
	}
	runs, err := v.holdings(ctx, "runs", "get")
	if err != nil {
		return nil, err
	}
	now := time.Now()
	running := s.o.Tasks.Running(runs.has, runningListed)
	data := workersData{Search: r.URL.Query().Get("q")}
	for _, worker := range s.o.Tasks.Workers() {
		worker.Queues = mine.among(worker.Queues)
		if !mine.all && len(worker.Queues) == 0 {
			continue
		}
		data.Total++
		if !matches(data.Search, append([]string{worker.Hostname}, worker.Queues...)...) {
			continue
		}
		row := workerRow{Worker: worker, Silent: worker.Silent(now), Running: running[worker.Hostname]}
		if row.Silent {
			data.Silent++
			row.Running = nil
		}
		if worker.Concurrency > 0 {
			row.Slots = make([]bool, min(worker.Concurrency, maxSlots))
			used := (len(row.Slots)*worker.Active + worker.Concurrency - 1) / worker.Concurrency
			for i := range min(used, len(row.Slots)) {
				row.Slots[i] = !row.Silent
			}
		}
		data.Rows = append(data.Rows, row)
	}
	slices.SortStableFunc(data.Rows, func(a, b workerRow) int { return compareBools(a.Silent, b.Silent) })
	return &view{template: "workers", data: data, title: "Workers", section: "workers"}, nil
}
