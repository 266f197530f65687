package dashboard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/weir-dev/weir/worker/celery"
)

func TestWhatHappensIsSeenAtOnce(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	token := w.admin()
	b := w.browser(t)
	b.signIn(token)
	b.open("/tasks?queue=personality")
	b.sees("No task matches.")
	b.sees("Live")
	w.enqueue(celery.Signature{ID: "one", Task: "debug_task", Queue: "personality", Kwargs: map[string]any{"sleep": 4}})
	enqueued := time.Now()
	b.seesWithin(5*time.Second, "waiting 1")
	t.Logf("enqueued to seen: %v", time.Since(enqueued).Round(10*time.Millisecond))
	w.startWorker("one", "personality")
	b.sees("weir@one")
	b.seesWithin(10*time.Second, "succeeded 1")

	var delays []time.Duration
	for i := range 10 {
		began := time.Now()
		w.enqueue(celery.Signature{ID: fmt.Sprint("n-", i), Task: "debug_task", Queue: "personality"})
		b.sees(fmt.Sprintf("succeeded %d", i+2))
		delays = append(delays, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("enqueued, run and seen: %v", delays)

	t.Run("typing is kept while the page changes", func(t *testing.T) {
		b.do(chromedp.Focus(chromedp.CSS("input[type=search]")), chromedp.SendKeys(chromedp.CSS("input[type=search]"), "sle"))
		b.sees("1 task")
		w.enqueue(celery.Signature{ID: "another", Task: "debug_task", Queue: "personality", Kwargs: map[string]any{"sleep": 0.1}})
		b.sees("2 tasks")
		if got := evaluate[string](b, `document.activeElement.name + "=" + document.activeElement.value`); got != "q=sle" {
			t.Errorf("the field that had the focus is %q", got)
		}
		if got := evaluate[string](b, "location.search"); !strings.Contains(got, "q=sle") || !strings.Contains(got, "queue=personality") {
			t.Errorf("the view's address is %q", got)
		}
	})

	t.Run("by keyboard alone", func(t *testing.T) {
		b.open("/limits")
		b.sees("spotify")
		press := func(key string) { b.do(chromedp.KeyEvent(key)) }
		press("\t")
		if got := evaluate[string](b, "document.activeElement.className"); got != "skip" {
			t.Errorf("the first stop is %q, want the way past the menu", got)
		}
		press("/")
		if got := evaluate[string](b, "document.activeElement.type"); got != "search" {
			t.Errorf("/ goes to %q, want the search", got)
		}
		evaluate[string](b, `document.activeElement.value = ""`) // the driver types / whatever becomes of the key
		b.do(chromedp.KeyEvent("spotify"))
		b.seesNot("openai")
		for range 4 {
			press("\t")
			if evaluate[string](b, "document.activeElement.textContent") == "spotify" {
				press("\r")
				b.sees("Conditions")
				return
			}
		}
		t.Error("the policy is not reached by the keyboard")
	})

	t.Run("a run is revoked, and put back", func(t *testing.T) {
		w.enqueue(celery.Signature{ID: "long", Task: "debug_task", Queue: "personality", Kwargs: map[string]any{"sleep": 600}})
		b.open("/tasks/long")
		b.sees("running")
		b.press("Revoke")
		b.sees("Revoked. It does not start any more")
		b.sees("revoked")
		b.press("Run again")
		b.sees("Enqueued again, as another task with the same arguments.")
		b.sees("running")
		b.press("Revoke")
	})
}

func TestWhatIsAwayIsSaid(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	token := w.admin()
	w.enqueue(celery.Signature{ID: "one", Task: "debug_task", Queue: "personality"})
	b := w.browser(t)
	b.signIn(token)
	b.open("/tasks")
	b.sees("waiting 1")
	w.redis.Kill()
	b.sees("Redis does not answer.")
	b.sees("Since")
	b.picture("redis-away")
	b.sees("debug_task") // as it was
	b.open("/dead")
	b.sees("Redis does not answer.")
	b.open("/tasks/one")
	b.sees("Redis does not answer.")
	w.redis.Restart()
	b.seesNot("Redis does not answer.")
	w.enqueue(celery.Signature{ID: "two", Task: "after_redis_came_back", Queue: "personality"})
	b.open("/tasks")
	b.sees("after_redis_came_back")

	b.open("/schedules/bondhu/hourly-sentiment")
	b.sees("Run now")
	b.open("/tasks")
	b.sees("Live")
	_ = w.control.Stop() // it waits for those who watch, and then no more
	b.sees("The API server does not answer.")
	b.sees("after_redis_came_back")
	b.picture("api-server-away")
	b.open("/schedules")
	b.sees("hourly-sentiment") // as it was, for who might see it
	b.open("/schedules/bondhu/hourly-sentiment")
	b.press("Run now")
	b.sees("The API server cannot be asked what you may.")
}
