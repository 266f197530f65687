package dashboard

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// traffic has callers take from policy spotify as its sidecars do, until the test
// ends: each every so often.
func (w *world) traffic(callers map[string]time.Duration) {
	w.t.Helper()
	store := &ruleset.Store{URL: w.redis.URL(), TimeoutMillis: 5000}
	limits := limiter.New(limiter.Options{})
	must(w.t, limits.Use(store))
	recorder := report.New(report.Options{Pod: "bondhu-api-0", Logger: slog.New(slog.DiscardHandler)})
	recorder.Use(store)
	recorder.Start()
	happened := recorder.Follow("bondhu", []string{"spotify"})[0]
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	for caller, pause := range callers {
		go func() {
			defer func() { ended <- struct{}{} }()
			for ctx.Err() == nil {
				decision, err := limits.Take(ctx, []limiter.Take{{
					Namespace: "bondhu", Service: "spotify", Identity: caller, Limits: []ruleset.Limit{{Requests: 100, WindowMillis: 60_000}},
				}})
				switch {
				case err != nil:
				case decision.Admitted:
					happened.Admitted(caller, 1, false)
				default:
					happened.Limited(caller, 1, decision.Quotas[0], false, false)
				}
				time.Sleep(pause)
			}
		}()
	}
	w.t.Cleanup(func() {
		cancel()
		for range callers {
			<-ended
		}
		recorder.Close()
		limits.Close()
	})
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	w.startOperator()
	admin := w.admin()
	reader := w.person("bondhu", "reader", false, map[string][]string{"ratelimitpolicies": {"get", "list"}, "ratelimitpolicies/usage": {"list"}})
	callers := map[string]time.Duration{"user_42": 20 * time.Millisecond}
	for i := range 12 {
		callers[fmt.Sprintf("user_%d", 100+i)] = time.Duration(400+150*i) * time.Millisecond
	}
	w.traffic(callers)
	b := w.browser(t)
	b.signIn(admin)
	b.open("/limits")
	b.sees("spotify")
	eventually(t, "rates are shown", func() bool {
		return evaluate[bool](b, `[...document.querySelectorAll("tbody tr")].some(r => r.innerText.includes("spotify") && parseFloat(r.cells[2].innerText) > 1)`)
	})
	eventually(t, "the caller with the most has used all", func() bool {
		return evaluate[bool](b, `[...document.querySelectorAll("tbody tr")].some(r => r.innerText.includes("spotify") && r.cells[4].innerText.trim() === "100\u202f%" && r.querySelector("meter").value === 100)`)
	})
	b.accessible(t, "limits")
	b.picture("limits-traffic")
	b.darkAndNarrow(t, "limits", "limits-traffic")
	b.open("/limits/bondhu/spotify")
	b.sees("user_42")
	b.sees("Limited lately")
	b.sees("bondhu-api-0")
	b.accessible(t, "a limit")
	b.picture("limit-traffic")
	b.darkAndNarrow(t, "a limit", "limit-traffic")

	b.clickIn("user_42", `button[aria-label="Reset user_42"]`)
	b.sees("The caller's windows are empty")
	b.clickIn("user_42", "summary")
	b.clickIn("user_42", "details button")
	b.sees("Granted 50 requests more in each window until")
	b.sees("150")

	t.Run("who may not read the status sees pseudonyms", func(t *testing.T) {
		got := w.ask(t, "GET", "/limits/bondhu/spotify", nil, bearer(reader), nil)
		if strings.Contains(got.body, "user_42") || !strings.Contains(got.body, "caller-") || strings.Contains(got.body, "/reset") {
			t.Errorf("a reader's page:\n%s", got.body)
		}
		if got := w.ask(t, "POST", "/limits/bondhu/spotify/reset", map[string][]string{"name": {"user_42"}}, bearer(reader), nil); got.status != 403 || !strings.Contains(got.body, "may not create ratelimitpolicies/resets") {
			t.Errorf("a reader's reset: %d", got.status)
		}
	})
}
