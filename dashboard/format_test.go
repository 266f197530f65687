package dashboard

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1\u202f000", 1234567: "1\u202f234\u202f567", -1000: "-1\u202f000", -100: "-100"} {
		if got := number(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0 s", 300 * time.Microsecond: "1 ms", 130 * time.Millisecond: "130 ms", 3 * time.Second: "3.0 s", 59 * time.Second: "59 s",
		61 * time.Second: "1 min 1 s", 90 * time.Minute: "1 h 30 min", 72 * time.Hour: "3 days",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestQueriesAreChangedOneParameterAtATime(t *testing.T) {
	t.Parallel()
	query := url.Values{"state": {"failed"}, "q": {"a b"}, "from": {"cursor"}}
	if got := with(query, "state", "running"); got != "?q=a+b&state=running" {
		t.Errorf("got %s", got)
	}
	if got := with(url.Values{"state": {"failed"}}, "state", ""); got != "?" {
		t.Errorf("got %s", got)
	}
}

func TestPlotsSayWhatTheyShow(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var points []point
	for i := range 600 {
		points = append(points, point{now.Add(time.Duration(i-600) * time.Second), float64(i % 50)})
	}
	drawn := string(plot(`<b>"Waiting"`, points, time.Hour, now, func(n float64) string { return number(int(n)) }))
	if !strings.Contains(drawn, `aria-label="&lt;b&gt;&#34;Waiting&#34; in 10 min: now 49, at most 49"`) || strings.Contains(drawn, "NaN") || strings.Contains(drawn, "style=") {
		t.Errorf("got %s", drawn)
	}
	for _, few := range [][]point{nil, points[:1]} {
		if drawn := string(plot("Waiting", few, time.Hour, now, func(float64) string { return "" })); strings.Contains(drawn, "NaN") {
			t.Errorf("%d points: %s", len(few), drawn)
		}
	}
}
