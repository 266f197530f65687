package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/worker/celery"
)

// lettersListed are read of one queue.
const lettersListed = 200

type letterRow struct {
	ID, Task, Reason, Error, Args, Schedule string
	At                                      time.Time
}

type deadQueue struct {
	Name     string
	Total    int64
	Rows     []letterRow
	Unlisted int64
	MayRetry bool
}

type deadData struct {
	Queues []deadQueue
	Search string
	Total  int64
}

func (s *Server) dead(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	mine, err := v.holdings(ctx, "runs", "get")
	if err != nil {
		return nil, err
	}
	acts, err := v.holdings(ctx, "runs", "create")
	if err != nil {
		return nil, err
	}
	data := deadData{Search: r.URL.Query().Get("q")}
	only := r.URL.Query().Get("queue")
	broker, err := s.o.Broker()
	for _, queue := range s.o.Tasks.Queues() {
		if err != nil || queue.DeadLetters == 0 || only != "" && queue.Name != only || !mine.queue(queue.Name) {
			continue
		}
		letters, total, err := broker.DeadLetters(ctx, queue.Name, lettersListed)
		if err != nil {
			continue // the notice says that Redis is away
		}
		listed := deadQueue{Name: queue.Name, Total: total, Unlisted: total - int64(len(letters)), MayRetry: acts.queue(queue.Name)}
		for i := range letters {
			row := rowOf(&letters[i])
			if !mine.has(tasks.Scope{PeriodicTask: row.Schedule, Queue: queue.Name}) {
				listed.Total--
				continue
			}
			if matches(data.Search, row.ID, row.Task, row.Reason, row.Error, row.Args) {
				listed.Rows = append(listed.Rows, row)
			}
		}
		data.Total += listed.Total
		if len(listed.Rows) > 0 {
			data.Queues = append(data.Queues, listed)
		}
	}
	return &view{template: "dead", data: data, title: "Dead letters", section: "dead"}, nil
}

func rowOf(letter *celery.DeadLetter) letterRow {
	row := letterRow{ID: letter.ID, Task: letter.Task, Reason: letter.Reason, Error: letter.Error, At: time.UnixMicro(int64(letter.At * 1e6))}
	if m, _ := celery.Decode(letter.Message); m != nil {
		row.Schedule = m.PeriodicTask
		if args, kwargs := m.Arguments(1024); args != nil {
			row.Args = arguments(string(args), string(kwargs))
		}
	}
	return row
}

// arguments on one line, without what is empty.
func arguments(args, kwargs string) string {
	switch {
	case args == "[]" || args == "()" || args == "":
		args = ""
	}
	if kwargs == "{}" {
		kwargs = ""
	}
	if args != "" && kwargs != "" {
		args += " "
	}
	return args + kwargs
}
