package dashboard

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/controllers/usage"
)

// A window's plots say in words what they draw, its table has each bucket with
// something in it, the newest first, and what they are given cannot break them.
func TestWindowsSayWhatTheyShow(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	window := usage.Window{Requests: 100, Window: metav1.Duration{Duration: time.Minute}, Begin: now.Add(-time.Minute), StepSeconds: 1.2, Units: make([]int64, 51), Reserved: 3}
	window.Units[0], window.Units[50] = 2, 20
	limit := usage.Limit{Requests: 100, Window: window.Window, Used: 25, Remaining: 75, FreesAfterSeconds: 1.2}
	row := windowRow(limit, window, now)
	if got := string(row.When); !strings.Contains(got, `aria-label="Admitted in the last 1 min: 22, at most 20 in 1.2 s"`) || strings.Contains(got, "style=") {
		t.Errorf("got %s", got)
	}
	if got := string(row.Left); !strings.Contains(got, `aria-label="Left in the next 1 min, if nothing is asked: 75 now, 97 in the end"`) {
		t.Errorf("got %s", got)
	}
	last := now.Add(1200 * time.Millisecond) // the end of the last bucket
	if got := row.Admissions; len(got) != 2 || got[0] != (admissions{last, last.Add(time.Minute), 20}) || got[1].Units != 2 {
		t.Errorf("the table has %v", got)
	}
	for _, strange := range []usage.Window{{}, {Units: []int64{1 << 62}, Requests: -1}} {
		for _, limit := range []usage.Limit{{}, limit, {Requests: 1, Remaining: 1 << 62}} {
			row := windowRow(limit, strange, now)
			if drawn := string(row.When + row.Left); strings.Contains(drawn, "NaN") || strings.Contains(drawn, "Inf") {
				t.Errorf("of %+v, %+v is drawn %s", limit, strange, drawn)
			}
		}
	}
}

// Callers are linked by name only for those who may ask by names.
func TestCallersHaveAddresses(t *testing.T) {
	t.Parallel()
	hostile, empty := "a/b?c=d&\u202e", ""
	for _, test := range []struct {
		name   usage.Name
		mayAsk bool
		want   string
	}{
		{usage.Name{Identity: &hostile}, true, "/limits/shop/api/callers?name=a%2Fb%3Fc%3Dd%26%E2%80%AE"},
		{usage.Name{Identity: &empty}, true, "/limits/shop/api/callers?name="},
		{usage.Name{Identity: &hostile}, false, ""},
		{usage.Name{Pseudonym: "caller-01"}, false, "/limits/shop/api/callers/caller-01"},
	} {
		if got := callerPage("/limits/shop/api", test.name, test.mayAsk); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

// Whatever somebody writes in a caller's place, it is a caller that is asked for.
func TestPseudonymsOfDotsAreNoWayUp(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/callers/{pseudonym}", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.PathValue("pseudonym"))) })
	for _, pseudonym := range []string{"caller-01", ".", "..", "../..", "a/b", "%2e", "\xff"} {
		w := httptest.NewRecorder()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/callers/"+segment(pseudonym), nil)
		if err != nil {
			t.Fatal(err)
		}
		if mux.ServeHTTP(w, r); w.Code != http.StatusOK || w.Body.String() != pseudonym {
			t.Errorf("%q: %d, %q", pseudonym, w.Code, w.Body)
		}
	}
}

// Who is not told names is not told that a name was refused nothing.
func TestRefusalsOfACaller(t *testing.T) {
	t.Parallel()
	name := func(identity string) usage.Name { return usage.Name{Identity: &identity} }
	told := []usage.Refusal{{Name: name("alice")}, {Name: name("bob")}, {Name: name("alice")}, {Name: usage.Name{Pseudonym: "caller-01"}}}
	hidden := []usage.Refusal{{Name: usage.Name{Pseudonym: "caller-01"}}, {Name: usage.Name{Pseudonym: "caller-02"}}}
	for _, test := range []struct {
		all    []usage.Refusal
		caller usage.Name
		want   int
		silent bool
	}{
		{told, name("alice"), 2, false},
		{told, name("carol"), 0, false},
		{told, usage.Name{Pseudonym: "caller-01"}, 1, false},
		{hidden, usage.Name{Pseudonym: "caller-01"}, 1, false},
		{hidden, name("alice"), 0, true},
		{nil, name("alice"), 0, false},
	} {
		if rows, silent := refusalsOf(test.all, test.caller); len(rows) != test.want || (silent != "") != test.silent {
			t.Errorf("of %+v are %d, %q", test.caller, len(rows), silent)
		}
	}
}
