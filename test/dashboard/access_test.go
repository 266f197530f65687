package dashboard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/worker/celery"
)

// answer of the page to a program.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request, without following redirects.
func (w *world) ask(t *testing.T, method, path string, form url.Values, header map[string]string, jar http.CookieJar) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.page+path, strings.NewReader(form.Encode()))
	must(t, err)
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: patience}
	response, err := client.Do(request)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// session signs in as a browser does.
func (w *world) session(t *testing.T, token string) http.CookieJar {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	if got := w.ask(t, "POST", "/login", url.Values{"token": {token}, "next": {"/tasks"}}, nil, jar); got.status != http.StatusSeeOther || got.header.Get("Location") != "/tasks" {
		t.Fatalf("signing in: %d %s", got.status, got.body)
	}
	return jar
}

// stream of a view, of which line reads the next one that begins so; false: it has
// ended, and so it must in time.
func (w *world) stream(t *testing.T, path, token string) (status int, line func(begin string) (string, bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, "GET", w.page+path, nil)
	must(t, err)
	request.Header = http.Header{"Accept": {"text/event-stream"}, "Authorization": {"Bearer " + token}}
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	lines := bufio.NewReader(response.Body)
	return response.StatusCode, func(begin string) (string, bool) {
		for {
			text, err := lines.ReadString('\n')
			if rest, is := strings.CutPrefix(text, begin); is {
				return rest, true
			}
			if errors.Is(err, io.EOF) {
				return "", false
			}
			must(t, err)
		}
	}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func TestWhoMay(t *testing.T) {
	secret := t.TempDir() + "/secret"
	must(t, os.WriteFile(secret, []byte("between the proxy and us"), 0o600))
	w := newWorld(t, "--forwarded-user-header", "X-Forwarded-User", "--forwarded-groups-header", "X-Forwarded-Groups", "--forwarded-secret-file", secret)
	w.apply(objects)
	admin := w.admin()
	see := map[string][]string{"periodictasks": {"list"}, "periodictasks/runs": {"get"}, "ratelimitpolicies": {"list"}}
	reader := w.person("bondhu", "reader", false, see)
	lister := w.person("bondhu", "lister", false, map[string][]string{"periodictasks": {"list"}})
	other := w.person("elsewhere", "other", false, map[string][]string{"periodictasks": {"list"}, "periodictasks/runs": {"get", "create", "delete"}, "ratelimitpolicies": {"list"}})
	w.enqueue(
		celery.Signature{ID: "mine", Task: "debug_task", Queue: "personality", Kwargs: map[string]any{"about": "somebody-private"}, PeriodicTask: "bondhu/hourly-sentiment"},
		celery.Signature{ID: "stray", Task: "debug_task", Queue: "personality"},
		celery.Signature{ID: "nobodys", Task: "debug_task", Queue: "unnamed"},
	)
	c, err := w.broker.NewConsumer(celery.ConsumerOptions{Queues: []string{"personality", "unnamed"}})
	must(t, err)
	taken, err := c.Take(t.Context(), 10)
	must(t, err)
	for i := range taken {
		_, err := c.Finish(t.Context(), []celery.Ending{c.Dead(&taken[i], celery.Outcome{State: celery.Failure, Err: fmt.Errorf("broken")}, "exhausted", time.Now(), time.Hour)})
		must(t, err)
	}
	list := func(token string) answer { return w.ask(t, "GET", "/tasks", nil, bearer(token), nil) }
	eventually(t, "all tasks are known", func() bool { return strings.Count(list(admin).body, `href="/tasks/`) >= 3 })

	t.Run("each sees what is theirs", func(t *testing.T) {
		for _, c := range []struct {
			who, token   string
			sees, misses []string
		}{
			{"who may everywhere", admin, []string{"/tasks/mine", "/tasks/stray", "/tasks/nobodys"}, nil},
			{"a reader of the namespace", reader, []string{"/tasks/mine", "/tasks/stray"}, []string{"/tasks/nobodys"}},
			{"who may list schedules only", lister, nil, []string{"/tasks/mine", "/tasks/stray", "somebody-private"}},
			{"somebody of another namespace", other, nil, []string{"/tasks/mine", "/tasks/stray", "/tasks/nobodys", "personality"}},
		} {
			got := list(c.token)
			if got.status != http.StatusOK {
				t.Errorf("%s: %d", c.who, got.status)
			}
			for _, text := range c.sees {
				if !strings.Contains(got.body, text) {
					t.Errorf("%s does not see %s", c.who, text)
				}
			}
			for _, text := range c.misses {
				if strings.Contains(got.body, text) {
					t.Errorf("%s sees %s", c.who, text)
				}
			}
		}
		if got := w.ask(t, "GET", "/tasks/mine", nil, bearer(reader), nil); got.status != http.StatusOK || !strings.Contains(got.body, "somebody-private") {
			t.Errorf("a reader of the namespace gets %d for its task", got.status)
		}
		for path, status := range map[string]int{"/schedules/bondhu/hourly-sentiment": 403, "/tasks/mine": 403, "/limits/bondhu/spotify": 403} {
			if got := w.ask(t, "GET", path, nil, bearer(other), nil); got.status != status || strings.Contains(got.body, "somebody-private") {
				t.Errorf("somebody of another namespace gets %d for %s, want %d", got.status, path, status)
			}
		}
		for _, path := range []string{"/schedules", "/queues", "/limits", "/dead", "/workers"} {
			if got := w.ask(t, "GET", path, nil, bearer(other), nil); got.status != http.StatusOK || strings.Contains(got.body, "hourly-sentiment") || strings.Contains(got.body, "spotify") {
				t.Errorf("somebody of another namespace gets %d for %s, with what is bondhu's", got.status, path)
			}
		}
	})

	t.Run("nobody without a token", func(t *testing.T) {
		for _, header := range []map[string]string{
			nil, bearer("made-up"), bearer(""), {"Authorization": "Basic YTpi"}, {"Cookie": "weir=made-up"},
			{"X-Forwarded-User": "ada"}, {"X-Forwarded-User": "ada", "X-Weir-Proxy-Secret": "guessed"},
			{"X-Forwarded-User": "system:admin", "X-Weir-Proxy-Secret": "between the proxy and us"},
		} {
			for _, path := range []string{"/tasks", "/tasks/mine", "/limits", "/dead", "/nothing"} {
				if got := w.ask(t, "GET", path, nil, header, nil); got.status != http.StatusUnauthorized || strings.Contains(got.body, "debug_task") {
					t.Errorf("%v gets %d for %s", header, got.status, path)
				}
			}
			if got := w.ask(t, "POST", "/tasks/mine/retry", url.Values{}, header, nil); got.status != http.StatusUnauthorized {
				t.Errorf("%v gets %d for an action", header, got.status)
			}
			if got := w.ask(t, "GET", "/tasks", nil, map[string]string{"Accept": "text/event-stream", "Authorization": "Bearer made-up"}, nil); got.status != http.StatusUnauthorized {
				t.Errorf("a stream without a token: %d", got.status)
			}
		}
	})

	t.Run("a forwarded user of a proxy that proves itself", func(t *testing.T) {
		header := map[string]string{"X-Forwarded-User": "ada", "X-Forwarded-Groups": "staff, system:masters", "X-Weir-Proxy-Secret": "between the proxy and us"}
		got := w.ask(t, "GET", "/tasks", nil, header, nil)
		if got.status != http.StatusOK || !strings.Contains(got.body, "ada") || strings.Contains(got.body, "/tasks/mine") {
			t.Errorf("got %d, want a page of ada's without tasks", got.status)
		}
	})

	t.Run("a reader's actions are refused", func(t *testing.T) {
		jar := w.session(t, reader)
		page := w.ask(t, "GET", "/tasks/mine", nil, nil, jar)
		if strings.Contains(page.body, "Try again") {
			t.Error("a reader is offered an action")
		}
		for _, path := range []string{"/tasks/mine/retry", "/tasks/stray/retry", "/schedules/bondhu/hourly-sentiment/run", "/dead/retry"} {
			got := w.ask(t, "POST", path, url.Values{"queue": {"personality"}}, bearer(reader), nil)
			if got.status != http.StatusForbidden || !strings.Contains(got.body, "may not create periodictasks/runs") {
				t.Errorf("%s: got %d %s", path, got.status, got.body)
			}
		}
		got := w.ask(t, "POST", "/tasks/mine/revoke", url.Values{}, bearer(reader), nil)
		if got.status != http.StatusForbidden || !strings.Contains(got.body, "may not delete periodictasks/runs") {
			t.Errorf("revoke: got %d", got.status)
		}
		if got := w.ask(t, "POST", "/tasks/mine/retry", url.Values{}, bearer(other), nil); got.status != http.StatusForbidden {
			t.Errorf("rights in one namespace are rights in another: %d", got.status)
		}
		if got := w.ask(t, "POST", "/tasks/nobodys/retry", url.Values{}, bearer(other), nil); got.status != http.StatusForbidden {
			t.Errorf("rights in one namespace are rights to what is nobody's: %d", got.status)
		}
	})

	t.Run("a form of another page's is refused", func(t *testing.T) {
		jar := w.session(t, admin)
		page := w.ask(t, "GET", "/tasks/mine", nil, nil, jar)
		token := csrfField.FindStringSubmatch(page.body)
		if token == nil {
			t.Fatalf("no form:\n%s", page.body)
		}
		elses := csrfField.FindStringSubmatch(w.ask(t, "GET", "/tasks/mine", nil, nil, w.session(t, w.admin())).body)
		for what, try := range map[string]struct {
			form   url.Values
			header map[string]string
		}{
			"no token":              {url.Values{}, nil},
			"somebody else's token": {url.Values{"csrf": {elses[1]}}, nil},
			"another site's form":   {url.Values{"csrf": {token[1]}}, map[string]string{"Sec-Fetch-Site": "cross-site"}},
			"a sibling site's form": {url.Values{"csrf": {token[1]}}, map[string]string{"Sec-Fetch-Site": "same-site"}},
			"another origin":        {url.Values{"csrf": {token[1]}}, map[string]string{"Origin": "https://evil.example"}},
			"a proxy's user":        {url.Values{}, map[string]string{"X-Forwarded-User": "ada", "X-Weir-Proxy-Secret": "between the proxy and us"}},
		} {
			if got := w.ask(t, "POST", "/tasks/mine/retry", try.form, try.header, jar); got.status != http.StatusForbidden {
				t.Errorf("%s: got %d", what, got.status)
			}
		}
		if got := w.ask(t, "GET", "/tasks/mine/retry?csrf="+token[1], nil, nil, jar); got.status == http.StatusSeeOther {
			t.Error("a GET acts")
		}
		got := w.ask(t, "POST", "/tasks/mine/retry", url.Values{"csrf": {token[1]}}, map[string]string{"Sec-Fetch-Site": "same-origin"}, jar)
		if got.status != http.StatusSeeOther {
			t.Fatalf("the page's own form: got %d %s", got.status, got.body)
		}
		eventually(t, "the message is back in its queue", func() bool { return w.redis.Client().LLen(t.Context(), "personality").Val() == 1 })
		eventually(t, "an event says who did it", func() bool {
			list := &eventsv1.EventList{}
			must(t, w.client.List(t.Context(), list, client.InNamespace("bondhu")))
			for _, e := range list.Items {
				if e.Reason == "RunRetried" && e.Type == corev1.EventTypeNormal && e.Regarding.Name == "hourly-sentiment" && strings.HasPrefix(e.Note, "system:serviceaccount:default:admin-") {
					return true
				}
			}
			return false
		})
		if got := w.ask(t, "GET", "/tasks", nil, nil, jar); !strings.Contains(got.body, "It is back in its queue.") {
			t.Error("the page does not say what came of it")
		}
	})

	t.Run("no page of others frames or reads it", func(t *testing.T) {
		got := list(admin)
		policy := got.header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("the policy has no %s: %s", part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(got.body, "style=") || strings.Contains(got.body, "<script>") {
			t.Error("there is something inline")
		}
		for name, want := range map[string]string{"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
			if got.header.Get(name) != want {
				t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
			}
		}
	})

	t.Run("the cookie is the browser's alone", func(t *testing.T) {
		got := w.ask(t, "POST", "/login", url.Values{"token": {admin}, "next": {"//evil.example/"}}, nil, nil)
		cookie := got.header.Get("Set-Cookie")
		if got.header.Get("Location") != "/" || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") || strings.Contains(cookie, admin[:20]) {
			t.Errorf("to %s with %s", got.header.Get("Location"), cookie)
		}
		if got := w.ask(t, "POST", "/login", url.Values{"token": {admin}}, map[string]string{"Sec-Fetch-Site": "cross-site"}, nil); got.status != http.StatusForbidden {
			t.Errorf("another site signs somebody in: %d", got.status)
		}
	})

	t.Run("who may act is asked each time", func(t *testing.T) {
		actor := w.person("bondhu", "actor", false, map[string][]string{"periodictasks/runs": {"create"}})
		run := func() int {
			return w.ask(t, "POST", "/schedules/bondhu/hourly-sentiment/run", url.Values{}, bearer(actor), nil).status
		}
		eventually(t, "the actor may", func() bool { return run() == http.StatusSeeOther })
		must(t, w.typed.RbacV1().RoleBindings("bondhu").Delete(t.Context(), "actor", metav1.DeleteOptions{}))
		eventually(t, "the API server knows that the actor may not", func() bool {
			review, err := w.typed.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:               "system:serviceaccount:bondhu:actor",
				ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "weir.dev", Resource: "periodictasks", Subresource: "runs", Verb: "create", Namespace: "bondhu", Name: "hourly-sentiment"},
			}}, metav1.CreateOptions{})
			must(t, err)
			return !review.Status.Allowed
		})
		if got := run(); got != http.StatusForbidden {
			t.Errorf("who may no more gets %d", got)
		}
		must(t, w.typed.CoreV1().ServiceAccounts("bondhu").Delete(t.Context(), "actor", metav1.DeleteOptions{}))
		eventually(t, "the API server does not accept the token", func() bool {
			review, err := w.typed.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: actor}}, metav1.CreateOptions{})
			must(t, err)
			return !review.Status.Authenticated
		})
		if got := run(); got != http.StatusUnauthorized {
			t.Errorf("whose token is revoked gets %d", got)
		}
	})

	t.Run("a worker's other queues are not shown", func(t *testing.T) {
		w.startWorker("two-sided", "reports,unseen")
		workers := func(token, search string) string {
			return w.ask(t, "GET", "/workers?q="+search, nil, bearer(token), nil).body
		}
		eventually(t, "the worker says its queues", func() bool { return strings.Contains(workers(admin, ""), ">unseen</a>") })
		if got := workers(reader, ""); !strings.Contains(got, ">reports</a>") || strings.Contains(got, "unseen") {
			t.Errorf("a reader sees\n%s", got)
		}
		if strings.Contains(workers(reader, "unse"), "two-sided") {
			t.Error("a reader finds it by the other queue")
		}
	})

	t.Run("nobody opens all streams", func(t *testing.T) {
		for range 50 {
			if status, _ := w.stream(t, "/limits", other); status != http.StatusOK {
				t.Fatalf("a stream: %d", status)
			}
		}
		if status, _ := w.stream(t, "/limits", other); status != http.StatusServiceUnavailable {
			t.Errorf("one more than anybody needs: %d", status)
		}
		if status, _ := w.stream(t, "/limits", reader); status != http.StatusOK {
			t.Errorf("somebody else's: %d", status)
		}
	})

	t.Run("a stream ends with its token, and shows no more than its rights", func(t *testing.T) {
		brief := w.person("bondhu", "brief", false, see)
		_, line := w.stream(t, "/tasks", brief)
		if view, _ := line("data: {"); !strings.Contains(view, "/tasks/mine") {
			t.Fatalf("the stream begins with %s", view)
		}
		must(t, w.typed.RbacV1().RoleBindings("bondhu").Delete(t.Context(), "brief", metav1.DeleteOptions{}))
		for {
			view, open := line("data: {")
			if !open {
				t.Fatal("the stream ended with the right")
			}
			if !strings.Contains(view, "/tasks/mine") {
				break
			}
		}
		must(t, w.typed.CoreV1().ServiceAccounts("bondhu").Delete(t.Context(), "brief", metav1.DeleteOptions{}))
		if _, said := line("event: end"); !said {
			t.Error("the stream does not say that it ends")
		}
		if _, open := line("data: {"); open {
			t.Error("the stream goes on")
		}
	})

	t.Run("rights that are taken away are gone in ten seconds", func(t *testing.T) {
		must(t, w.typed.RbacV1().RoleBindings("bondhu").Delete(t.Context(), "reader", metav1.DeleteOptions{}))
		eventually(t, "the reader sees nothing", func() bool { return !strings.Contains(list(reader).body, "/tasks/mine") })
	})
}

// hostile is what somebody may be called.
const hostile = `"><img src=x onerror=window.pwned=1><script>window.pwned=1</script>{{.}}` + "\u202egnp.exe\u2066\u200b\x1b[31m\x00\r"

func TestWhateverIsCalledAnything(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	admin := w.admin()
	c, err := w.broker.NewConsumer(celery.ConsumerOptions{Queues: []string{"personality"}, Hostname: "weir@" + hostile})
	must(t, err)
	w.enqueue(celery.Signature{ID: hostile, Task: hostile, Queue: "personality", Args: []any{hostile}, Kwargs: map[string]any{hostile: hostile}})
	w.enqueue(celery.Signature{ID: "plain", Task: hostile, Queue: "personality", Kwargs: map[string]any{hostile: hostile}})
	taken, err := c.Take(t.Context(), 2)
	must(t, err)
	for i := range taken {
		_, err = c.Finish(t.Context(), []celery.Ending{c.Dead(&taken[i], celery.Outcome{State: celery.Failure, Err: fmt.Errorf("%s", hostile), ErrType: hostile}, "exhausted", time.Now(), time.Hour)})
		must(t, err)
	}
	must(t, w.broker.NewSender("weir@"+hostile).Send(t.Context(), celery.Event{Type: "worker-heartbeat", Fields: map[string]any{"active": 1, "sw_ident": hostile, "sw_ver": hostile}}))
	b := w.browser(t)
	b.signIn(admin)
	for _, path := range []string{"/tasks", "/tasks/plain", "/tasks/" + url.PathEscape(hostile), "/dead", "/tasks?q=" + url.QueryEscape(hostile), "/tasks?worker=" + url.QueryEscape(hostile), "/queues?q=" + url.QueryEscape(hostile), "/nothing/" + url.PathEscape(hostile)} {
		b.open(path)
		b.sees("Weir")
		if strings.HasPrefix(path, "/tasks/") || path == "/dead" {
			b.sees("onerror=window.pwned")
			b.sees("⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+200B⟩")
		}
		if evaluate[bool](b, "window.pwned === 1") {
			t.Fatalf("%s: a script ran", path)
		}
		if n := evaluate[int](b, `document.querySelectorAll("#view img, #view script").length`); n != 0 {
			t.Errorf("%s: %d elements were made of a name", path, n)
		}
		if text := b.text(); strings.ContainsAny(text, "\u202e\u2066\u200b\x1b\x00") {
			t.Errorf("%s: there are characters that nobody sees", path)
		}
	}
	w.enqueue(celery.Signature{ID: "title", Task: "\u202eeltit", Queue: "reports"})
	eventually(t, "the task is known", func() bool {
		return strings.Contains(w.ask(t, "GET", "/tasks/title", nil, bearer(admin), nil).body, "⟨U+202E⟩eltit")
	})
	_, line := w.stream(t, "/tasks/title", admin)
	text, _ := line("data: ")
	var view struct{ Title string }
	must(t, json.Unmarshal([]byte(text), &view))
	if view.Title != "⟨U+202E⟩eltit" {
		t.Errorf("a stream's title is %q", view.Title)
	}
}
