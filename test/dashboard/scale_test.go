package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// A large installation: as many teams with so many policies each, of which each
// was asked by as many callers as a sidecar tells of, and so many tasks.
const (
	teams           = 500
	policiesOfTeam  = 20
	callersOfPolicy = 64
	manyTasks       = 200_000
)

func TestScale(t *testing.T) {
	w := newWorld(t)
	w.process.Kill() // the page starts when all is there
	w.apply(objects)
	admin := w.admin()
	began := time.Now()
	must(t, errors.Join(w.fillTeams(), w.fillTasks()))
	t.Logf("%d policies, %d callers and %d tasks made in %v", teams*policiesOfTeam, teams*policiesOfTeam*callersOfPolicy, manyTasks, time.Since(began).Round(time.Second))
	member := w.person("team-007", "member", false, map[string][]string{
		"ratelimitpolicies": {"get", "list"}, "ratelimitpolicies/usage": {"list"}, "periodictasks": {"list"},
	})
	callers := map[string]time.Duration{}
	for i := range 60 {
		callers[fmt.Sprintf("user_%d", i)] = time.Duration(1000+10*i) * time.Millisecond // none is refused
	}
	w.traffic(callers)

	began = time.Now()
	w.startPage()
	eventuallyWithin(t, 3*time.Minute, "all are known", func() bool {
		time.Sleep(200 * time.Millisecond) // each look costs what is measured
		return strings.Contains(w.ask(t, "GET", "/tasks", nil, bearer(admin), nil).body, "200\u202f000 tasks")
	})
	t.Logf("all known %v after the start; %s", time.Since(began).Round(100*time.Millisecond), w.memory())

	b := w.browser(t)
	b.signIn(admin)
	for _, v := range []struct {
		path string
		rows int
	}{
		{"/limits", 100}, {"/limits?from=9900", 100}, {"/limits?q=api-7", 100}, {"/limits?q=team-499", policiesOfTeam},
		{"/limits/team-007/api-3", 50 + 4}, {"/limits/bondhu/spotify", 50}, // callers, and who was limited
		{"/tasks", 100}, {"/tasks?state=failed", 100}, {"/tasks?q=user-99999", 1}, {"/tasks?name=tasks.kind_4", 100}, {"/queues", 0}, {"/workers", 0},
	} {
		b.bounded(v.path, v.rows)
	}
	b.open("/limits/team-007/api-3")
	b.sees("team-007-user-0")
	must(t, b.forget())
	b.signIn(member) // who may in one of the namespaces
	b.bounded("/limits", policiesOfTeam)
	b.bounded("/tasks", 0)
	t.Logf("after all views: %s", w.memory())

	must(t, b.forget())
	b.signIn(admin)
	b.open("/tasks")
	seen := map[string]bool{}
	b.sees("200\u202f000 tasks")
	for range 4 {
		const rows = `[...document.querySelectorAll("tbody tr")].map(r => r.id)`
		ids := evaluate[[]string](b, rows)
		for _, id := range ids {
			seen[id] = true
		}
		b.do(chromedp.Click(`//a[normalize-space()="Older"]`))
		eventually(t, "an older page is there", func() bool {
			older, err := try(b, chromedp.Evaluate[[]string](rows))
			return err == nil && len(older) > 0 && older[0] != ids[0]
		})
	}
	if len(seen) != 400 {
		t.Errorf("four pages have %d tasks, want 400", len(seen))
	}
	b.picture("tasks-200000")
	b.open("/limits?from=9900")
	b.picture("limits-10000")
}

const (
	// maxPageBytes and maxRequests are what a view may cost a browser, whatever
	// there is.
	maxPageBytes = 600_000
	maxRequests  = 8
)

// bounded holds a view to what it may cost, and logs when it was first painted.
func (b *browser) bounded(path string, rows int) {
	b.t.Helper()
	var paints, served []time.Duration
	requests := 0
	for range 3 {
		before := b.asked()
		b.open(path)
		paint := evaluate[float64](b, `new Promise(done => { const look = () => { const p = performance.getEntriesByName("first-contentful-paint")[0]; p ? done(p.startTime) : setTimeout(look, 10) }; look() })`)
		paints = append(paints, time.Duration(paint*float64(time.Millisecond)).Round(time.Millisecond))
		served = append(served, time.Duration(evaluate[float64](b, `performance.getEntriesByType("navigation")[0].responseEnd`)*float64(time.Millisecond)).Round(time.Millisecond))
		b.sees("Live")
		requests = max(requests, b.asked()-before)
	}
	size := evaluate[int](b, `performance.getEntriesByType("navigation")[0].decodedBodySize`)
	found := evaluate[int](b, `document.querySelectorAll("tbody tr").length`)
	b.t.Logf("%s: first paint %v, of which its arrival %v; %d rows, %d KiB, %d requests", path, paints, served, found, size>>10, requests)
	if found != rows || size > maxPageBytes || requests > maxRequests {
		b.t.Errorf("%s has %d rows and %d bytes in %d requests, want %d, at most %d and at most %d", path, found, size, requests, rows, maxPageBytes, maxRequests)
	}
}

// forget who is signed in.
func (b *browser) forget() error {
	_, err := chromedp.Call(b.ctx, network.ClearBrowserCookies, cdp.Empty{})
	return err
}

// asked is how many requests the browser has sent.
func (b *browser) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests
}

var residentLine = regexp.MustCompile(`Vm(HWM|RSS):\s+(\d+) kB`)

// memory of the page's process, and the most that it had.
func (w *world) memory() string {
	w.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.process.Pid()))
	if err != nil {
		return "resident: only Linux says"
	}
	var said []string
	for _, found := range residentLine.FindAllStringSubmatch(string(status), -1) {
		kilobytes, _ := strconv.Atoi(found[2])
		said = append(said, fmt.Sprintf("%s %d MiB", map[string]string{"HWM": "resident at most", "RSS": "now"}[found[1]], kilobytes>>10))
	}
	return strings.Join(said, ", ")
}

// inParallel calls f with 0 to n-1, sixteen at a time.
func inParallel(n int, f func(int) error) error {
	next, failed := make(chan int), make([]error, n)
	var working sync.WaitGroup
	for range 16 {
		working.Go(func() {
			for i := range next {
				failed[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	working.Wait()
	return errors.Join(failed...)
}

// fillTeams makes the teams' policies, and has their sidecars report.
func (w *world) fillTeams() error {
	return inParallel(teams, func(team int) error {
		namespace := fmt.Sprintf("team-%03d", team)
		if err := w.client.Create(w.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			return err
		}
		var services []string
		for i := range policiesOfTeam {
			services = append(services, fmt.Sprintf("api-%d", i))
			if err := w.client.Create(w.t.Context(), &v1alpha1.RateLimitPolicy{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: services[i]},
				Spec: v1alpha1.RateLimitPolicySpec{
					Direction: v1alpha1.DirectionOutbound, Hosts: []string{services[i] + ".example.com"},
					Identity: v1alpha1.Identity{Sources: []v1alpha1.IdentitySource{{Header: &v1alpha1.HeaderSource{Name: "X-User-ID"}}}},
					Limits:   []v1alpha1.Limit{{Requests: 100, Window: metav1.Duration{Duration: time.Minute}}},
				},
			}); err != nil {
				return err
			}
		}
		w.reports(namespace, services)
		return nil
	})
}

// reports of what a pod's callers did at its policies.
func (w *world) reports(namespace string, services []string) {
	recorder := report.New(report.Options{Pod: namespace + "-0", Logger: slog.New(slog.DiscardHandler)})
	recorder.Use(&ruleset.Store{URL: w.redis.URL(), TimeoutMillis: 5000})
	by := limiter.Quota{Limit: ruleset.Limit{Requests: 100, WindowMillis: 60_000}, RetryAfter: time.Minute}
	for _, happened := range recorder.Follow(namespace, services) {
		for i := range callersOfPolicy {
			name := fmt.Sprintf("%s-user-%d", namespace, i)
			happened.Admitted(name, int64(100-i), false)
			if i < 4 {
				happened.Limited(name, 1, by, false, false)
			}
		}
	}
	recorder.Close() // sends all
}

// fillTasks has Redis full of results.
func (w *world) fillTasks() error {
	const batch = 5000
	redis := w.redis.Client()
	return inParallel(manyTasks/batch, func(part int) error {
		pipe := redis.Pipeline()
		for i := part * batch; i < (part+1)*batch; i++ {
			id := fmt.Sprintf("%08d-0000-4000-8000-000000000000", i)
			state := "SUCCESS"
			if i%50 == 0 {
				state = "FAILURE"
			}
			text, err := json.Marshal(map[string]any{
				"status": state, "result": map[string]any{"score": 0.5, "exc_type": "ValueError", "exc_message": []string{"no"}}, "traceback": nil, "children": []any{}, "task_id": id,
				"date_done": time.Now().Add(-time.Duration(i) * time.Second).UTC().Format("2006-01-02T15:04:05.000000"),
				"name":      fmt.Sprintf("tasks.kind_%d", i%9), "args": []any{fmt.Sprintf("user-%d", i)}, "kwargs": map[string]any{"window": "24h"}, "worker": fmt.Sprintf("celery@worker-%d", i%20), "queue": "personality",
			})
			if err != nil {
				return err
			}
			pipe.Set(w.t.Context(), "celery-task-meta-"+id, text, time.Hour)
		}
		_, err := pipe.Exec(w.t.Context())
		return err
	})
}
