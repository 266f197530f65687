package dashboard

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestCaller looks at one caller: its windows as plots and in words, what was done to
// its quota, and who may see it under which name.
func TestCaller(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	w.startOperator()
	admin := w.admin()
	reader := w.person("bondhu", "reader", false, map[string][]string{"ratelimitpolicies": {"list"}, "ratelimitpolicies/usage": {"list"}})
	lister := w.person("bondhu", "lister", false, map[string][]string{"ratelimitpolicies": {"list"}})
	w.traffic(map[string]time.Duration{"user_42": 20 * time.Millisecond, "user_7": 300 * time.Millisecond, hostileName: time.Second})
	b := w.browser(t)
	b.signIn(admin)
	b.open("/limits/bondhu/spotify")
	b.sees("user_7")
	b.clickIn("user_7", "td a")
	b.sees("admitted now")
	if at := evaluate[string](b, "location.pathname + location.search"); at != "/limits/bondhu/spotify/callers?name=user_7" {
		t.Errorf("a caller's address is %s", at)
	}
	b.sees("100 in 1 min")
	plots := func(begin string) int {
		return evaluate[int](b, `[...document.querySelectorAll("svg[role=img]")].filter(s => s.getAttribute("aria-label").startsWith("`+begin+`")).length`)
	}
	if plots("Admitted in the last 1 min: ") != 1 || plots("Left in the next 1 min, if nothing is asked: ") != 1 {
		t.Error("the plots do not say what they show")
	}
	b.do(clicks("details.table summary"))
	rows := `[...document.querySelectorAll("details.table tbody tr")].reduce((sum, r) => sum + parseInt(r.cells[1].innerText), 0)`
	used := `parseInt(document.querySelector(".figures .big").innerText)`
	eventually(t, "the table has what is used", func() bool { return evaluate[bool](b, rows+" === "+used+" && "+used+" > 3") })
	if !evaluate[bool](b, `document.querySelector("details.table").open`) {
		t.Error("the table was closed by an update")
	}
	b.accessible(t, "a caller")
	b.picture("caller")

	b.open("/limits/bondhu/spotify/callers?name=user_42")
	b.sees("limited now")
	b.sees("bondhu-api-0")
	b.picture("caller-limited")
	b.darkAndNarrow(t, "a caller", "caller")
	b.do(clicks(`.head details summary`), clicks(`.head details button`))
	b.sees("Granted 50 requests more in each window until")
	b.sees("150 in 1 min")
	b.do(clicks(`button[aria-label="Reset user_42"]`))
	b.sees("The caller's windows are empty")
	b.sees("Windows emptied")
	if at := evaluate[string](b, "location.pathname + location.search"); at != "/limits/bondhu/spotify/callers?name=user_42" {
		t.Errorf("an action leads to %s", at)
	}

	b.open("/limits/bondhu/spotify")
	b.do(fills(`input[name=name]`, hostileName), clicks(".head.below button"))
	b.sees("onerror=window.pwned")
	b.sees("100 in 1 min")
	if evaluate[bool](b, "window.pwned === 1") {
		t.Error("a script ran")
	}
	b.open("/limits/bondhu/openai/callers?name=nobody")
	b.sees("50\u202f000 in 1 h")
	b.sees("3\u202f000 in 1 min")

	t.Run("others see it under its pseudonym", func(t *testing.T) {
		page := w.ask(t, "GET", "/limits/bondhu/spotify", nil, bearer(reader), nil)
		_, rest, _ := strings.Cut(page.body, `href="/limits/bondhu/spotify/callers/`)
		pseudonym, _, _ := strings.Cut(rest, `"`)
		got := w.ask(t, "GET", "/limits/bondhu/spotify/callers/"+pseudonym, nil, bearer(reader), nil)
		if got.status != 200 || !strings.Contains(got.body, "<h1>"+pseudonym) || strings.Contains(got.body, "user_42") || strings.Contains(got.body, "/reset") || strings.Contains(got.body, "Windows emptied") {
			t.Errorf("%d: %s", got.status, got.body)
		}
		for path, who := range map[string]string{"?name=user_42": reader, "/" + pseudonym: lister, "?name=user_7": lister} {
			if got := w.ask(t, "GET", "/limits/bondhu/spotify/callers"+path, nil, bearer(who), nil); got.status != 403 || !strings.Contains(got.body, "ratelimitpolicies/usage") {
				t.Errorf("%s: %d", path, got.status)
			}
		}
		if got := w.ask(t, "GET", "/limits/bondhu/spotify/callers/"+url.PathEscape(hostileName), nil, bearer(reader), nil); got.status != 404 {
			t.Errorf("nobody's pseudonym: %d", got.status)
		}
	})
}

const hostileName = `"><img src=x onerror=window.pwned=1>/../{{.}}?a=b&c`
