package chaos

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/test/audit/judge"
)

// table has a row for each fault.
type table struct {
	mu   sync.Mutex
	rows []string
}

func (t *table) add(name string, l *load, v judge.Verdict) {
	share := func(w judge.Window) string {
		if w.Units == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f %%", 100*w.Share())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%v\t%v\t%d\t", name, l.asked.Load(),
		v.Admitted[audit.Redis], v.Admitted[audit.Lease], v.Admitted[audit.Share], l.limited.Load(), l.unavailable.Load(),
		share(v.Fullest), share(v.FullestExcused), millis(&l.longest), millis(&l.stall), len(v.Violations)))
}

func (t *table) print(to io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	_, _ = fmt.Fprintf(to, `
%d sidecars, store timeout %v. Admissions are counted once for each limit. Around an
outage or a loss of Redis's a window may hold more than the limit: docs/limiter.md.
A stall is how long this machine kept a process of ours that had something to do.
`, sidecars, storeTimeout)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "fault\tasked\tby Redis\tleases\tshares\t429\t503\tfullest\taround outage\tlongest answer\tlongest stall\tover\t")
	for _, row := range t.rows {
		_, _ = fmt.Fprintln(w, row)
	}
	_ = w.Flush()
}

func millis(d *atomic.Int64) time.Duration { return time.Duration(d.Load()).Round(time.Millisecond) }
