package proxy

import (
	"net/http"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// What is reported is what became of requests.
func TestReports(t *testing.T) {
	t.Parallel()
	minute := []ruleset.Limit{{Requests: 2, WindowMillis: 60_000}}
	local := basic("local", inbound(locally(1)))
	local.Limits = minute
	watching := basic("watching", inbound(func(p *ruleset.Policy) {
		p.Observe, p.Limits = true, []ruleset.Limit{{Requests: 1, WindowMillis: 60_000}}
	}))
	h := serve(t, ruleset.Inbound, application(t, seen), local, watching)
	told := redistest.Start(t)
	h.reports.Use(&ruleset.Store{URL: told.URL(), TimeoutMillis: 100})
	if got := h.statuses(5, "alice"); count(got, http.StatusOK) != 2 {
		t.Fatalf("with Redis %v, want two served", got)
	}
	h.local("POST", "/v1/check", `{"service":"local","identity":"alice"}`)
	h.redis.Kill()
	if got := h.statuses(4, "bob"); count(got, http.StatusOK) != 2 {
		t.Fatalf("without Redis %v, want two served", got)
	}
	h.apply(local, basic("denying", inbound(func(p *ruleset.Policy) { p.OnStoreFailure = ruleset.OnStoreFailureDeny })))
	h.statuses(1, "carol")
	h.apply(local, basic("allowing", inbound(nil)))
	h.statuses(1, "alice")
	h.reports.Close()

	find := func(service string) (report.Report, report.Counts) {
		found, err := report.Read(t.Context(), told.Client(), "ns", service)
		if err != nil {
			t.Fatal(err)
		}
		var sum report.Counts
		for _, counts := range found.Hour.Buckets {
			sum.Admitted += counts.Admitted
			sum.Limited += counts.Limited
			sum.WithoutRedis += counts.WithoutRedis
		}
		return found, sum
	}
	of, counts := find("local")
	if want := (report.Counts{Admitted: 4, Limited: 7, WithoutRedis: 5}); counts != want {
		t.Errorf("local: %+v, want %+v", counts, want)
	}
	if len(of.Callers) != 2 || of.Callers[0] != (report.Caller{Identity: "alice", Asked: 7, Limited: 5}) ||
		of.Callers[1] != (report.Caller{Identity: "bob", Asked: 4, Limited: 2}) {
		t.Errorf("local's callers are %+v", of.Callers)
	}
	if len(of.Refusals) != 2 {
		t.Fatalf("local's refusals are %+v, want one of each caller", of.Refusals)
	}
	for _, refusal := range of.Refusals {
		if refusal.Requests != 2 || refusal.Window != time.Minute || refusal.Observed || !refusal.Frees.After(refusal.At) {
			t.Errorf("refused: %+v", refusal)
		}
	}
	of, counts = find("watching")
	if want := (report.Counts{Admitted: 1, Limited: 1, WithoutRedis: 2}); counts != want {
		t.Errorf("watching: %+v, want %+v", counts, want)
	}
	if len(of.Refusals) != 1 || !of.Refusals[0].Observed {
		t.Errorf("watching's refusals are %+v, want one observed", of.Refusals)
	}
	if _, counts = find("denying"); counts != (report.Counts{WithoutRedis: 1}) {
		t.Errorf("denying: %+v, want one undecided", counts)
	}
	if _, counts = find("allowing"); counts != (report.Counts{}) {
		t.Errorf("allowing: %+v, want none: another refused", counts)
	}
}
