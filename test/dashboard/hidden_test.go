package dashboard

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/usage"
)

func TestHiddenCallers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--hide-callers")
	w.apply(objects)
	admin := w.admin()
	callers := map[string]time.Duration{"ada@example.com": 20 * time.Millisecond}
	for i := range 3 {
		callers[fmt.Sprintf("somebody-%d@example.com", i)] = 300 * time.Millisecond
	}
	w.traffic(callers)
	names := func(text string) (found []string) {
		for name := range callers {
			for _, form := range []string{name, base64.RawURLEncoding.EncodeToString([]byte(name)), url.QueryEscape(name)} {
				if strings.Contains(text, form) {
					found = append(found, form)
				}
			}
		}
		return found
	}
	const policy = "/limits/bondhu/spotify"
	grant := func() answer {
		return w.ask(t, "POST", policy+"/grant", url.Values{"name": {"ada@example.com"}, "requests": {"5"}, "for": {"1h"}, "reason": {"asked"}}, bearer(admin), nil)
	}
	eventually(t, "a grant is made", func() bool { return grant().status == http.StatusSeeOther })

	b := w.browser(t)
	b.signIn(admin)
	b.open(policy)
	b.sees("Limited lately")
	eventually(t, "all callers are listed", func() bool { return strings.Count(b.text(), "caller-") > len(callers) })
	b.sees("Callers have pseudonyms here")
	b.accessible(t, "a limit with pseudonyms")
	b.picture("limit-hidden")
	if n := evaluate[int](b, `document.querySelectorAll("form[action$='/reset'], form[action$='/grant']").length`); n != 0 {
		t.Errorf("%d forms are for callers whom nobody may name", n)
	}
	// What the page became by its stream is read here, too.
	for _, path := range []string{policy, "/limits", "/schedules", "/queues", "/workers", "/tasks", "/dead"} {
		b.open(path)
		b.sees("Live")
		if found := names(evaluate[string](b, "document.documentElement.outerHTML")); found != nil {
			t.Errorf("%s in the browser names %q", path, found)
		}
		if got := w.ask(t, "GET", path, nil, bearer(admin), nil); got.status != http.StatusOK || names(got.body) != nil {
			t.Errorf("%s gives %d and names %q", path, got.status, names(got.body))
		}
		status, line := w.stream(t, path, admin)
		if text, _ := line("data: {"); status != http.StatusOK || names(text) != nil {
			t.Errorf("the stream of %s gives %d and names %q", path, status, names(text))
		}
	}
	_, line := w.stream(t, policy, admin)
	for range 3 {
		if text, open := line("data: {"); !open || !strings.Contains(text, "caller-") || names(text) != nil {
			t.Errorf("the stream of the policy names %q, or nobody:\n%s", names(text), text)
		}
	}
	eventually(t, "the grant is an event, which names no caller", func() bool {
		list := &eventsv1.EventList{}
		must(t, w.client.List(t.Context(), list, client.InNamespace("bondhu")))
		granted := false
		for _, event := range list.Items {
			granted = granted || event.Reason == usage.EventGranted
			if names(event.Note) != nil {
				t.Fatalf("an event names a caller: %s", event.Note)
			}
		}
		return granted
	})
}
