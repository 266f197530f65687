package link

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestAskingAcknowledgesWhatIsInForce(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	first := rules(o.link(), "spotify", "steam")
	bootstrap := stamped(first)
	o.program(first)
	p := newPod(t, bootstrap, "")
	p.start()

	got := o.acknowledged(bootstrap.Version)
	if got.Enforcing != nil {
		t.Errorf("without a Store it reports %v as enforced, expected nothing", got.Enforcing)
	}
	got = o.acknowledged(first.Version)
	if !slices.Equal(got.Enforcing, first.Refs()) || got.Rejected != nil {
		t.Errorf("got %+v, expected the two policies enforced and nothing rejected", got)
	}
	second := rules(o.link(), "spotify")
	o.program(second)
	o.acknowledged(second.Version)
	if got, want := p.inForce(), []string{bootstrap.Version, first.Version, second.Version}; !slices.Equal(got, want) {
		t.Errorf("applied %v, expected %v", got, want)
	}
	if got := testutil.ToFloat64(p.policies); got != 1 {
		t.Errorf("weir_sidecar_policies is %v, expected 1", got)
	}
	if strings.Contains(p.logs.String(), "hidden") || strings.Contains(p.logs.String(), "first\n") {
		t.Errorf("the log holds a secret:\n%s", p.logs)
	}
}

func TestNothingNewerAppliesNothing(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	r := rules(o.link(), "spotify")
	o.program(r)
	p := newPod(t, r, "")
	p.start()
	for range 5 {
		o.acknowledged(r.Version)
	}
	if got := p.inForce(); len(got) != 1 {
		t.Errorf("applied %v, expected only what it started with", got)
	}
	eventually(t, "the link counts as connected", func() bool { return testutil.ToFloat64(p.connected) == 1 })
}

func TestHeldRequestCountsAsConnected(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.hold = deadline
	r := rules(o.link())
	o.program(r)
	p := newPod(t, r, "")
	p.limits.held = 10 * time.Millisecond
	p.start()
	o.acknowledged(r.Version)
	eventually(t, "the link counts as connected", func() bool { return testutil.ToFloat64(p.connected) == 1 })
	if got := o.count(); got != 1 {
		t.Errorf("asked %d times, expected the one request that is held", got)
	}
}

func TestRejectedRulesetLeavesTheOldOneInForce(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	good := rules(o.link(), "spotify")
	o.program(good)
	p := newPod(t, stamped(good), "")
	p.start()
	o.acknowledged(good.Version)

	elsewhere := rules(o.link(), "spotify")
	elsewhere.Namespace = "other"
	elsewhere.Seal()
	unnamed := rules(o.link(), "spotify")
	unnamed.Version = strings.Repeat("x", maxVersion+1)
	for _, c := range []struct {
		reason string
		bad    *ruleset.Ruleset
		says   string
	}{
		{"a policy cannot be applied", rules(o.link(), "impossible"), errRefused.Error()},
		{"it is another namespace's", elsewhere, `"other"`},
		{"its version is too long", unnamed, "129 bytes"},
		{"its authorities are no certificates", rules(ruleset.Link{Address: "a:1", CABundle: "none"}), "no PEM certificate"},
		{"its address has no port", rules(ruleset.Link{Address: "a", CABundle: o.ca}), "host:port"},
	} {
		o.program(c.bad)
		got := o.report("rejects because "+c.reason, func(r ruleset.Report) bool {
			return r.Rejected != nil && strings.HasPrefix(c.bad.Version, r.Rejected.Version)
		})
		if got.Version != good.Version || !strings.Contains(got.Rejected.Reason, c.says) {
			t.Errorf("%s: got version %s, reason %q; expected %s and %q",
				c.reason, got.Version, got.Rejected.Reason, good.Version, c.says)
		}
	}
	saved, err := load(p.saved, "bondhu", maxRuleset)
	if err != nil || saved.Version != good.Version {
		t.Errorf("saved is %v, %v; expected the good Ruleset", saved, err)
	}
	mended := rules(o.link(), "mended")
	o.program(mended)
	if got := o.acknowledged(mended.Version); got.Rejected != nil {
		t.Errorf("got rejection %+v after a good Ruleset, expected none", got.Rejected)
	}
}

func TestTroubleIsLoggedOnceAndPasses(t *testing.T) {
	t.Parallel()
	redirect := func(w http.ResponseWriter) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	for _, c := range []struct {
		reason string
		damage func(*operator)
		says   string
	}{
		{"the token is not accepted", func(o *operator) { o.token = "second" }, "(401)"},
		{"the pod has no Ruleset", func(o *operator) { o.refuse = 403 }, "(403)"},
		{"the operator fails", func(o *operator) { o.refuse = 503 }, "status 503"},
		{"redirects would carry the token away", func(o *operator) { o.raw = redirect }, "status 307"},
		{"the answer is not JSON", func(o *operator) { o.raw = writeBodyOf("<html>") }, "not valid JSON"},
		{"the answer is too large", func(o *operator) {
			o.raw = writeBodyOf(`{"version":"` + strings.Repeat("x", maxRuleset) + `"}`)
		}, "more than 16384 bytes"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			r := rules(o.link(), "spotify")
			o.program(r)
			p := newPod(t, stamped(r), "")
			p.start()
			o.acknowledged(r.Version)

			o.set(c.damage)
			before := o.count()
			eventually(t, "it asked three times", func() bool { return o.count() > before+3 })
			if got := testutil.ToFloat64(p.connected); got != 0 {
				t.Errorf("weir_sidecar_link_connected is %v, expected 0", got)
			}
			logged := p.logs.String()
			if got := strings.Count(logged, "no link to the operator"); got != 1 || !strings.Contains(logged, c.says) {
				t.Errorf("expected one line with %q, got %d:\n%s", c.says, got, logged)
			}
			p.write("token", "second\n") // the kubelet replaced it
			o.set(func(o *operator) { o.refuse, o.raw, o.token = 0, nil, "second" })
			next := rules(o.link(), "steam")
			o.program(next)
			o.acknowledged(next.Version)
		})
	}
}

func writeBodyOf(body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { writeBody(strings.NewReader(body))(w) }
}

func TestTokenIsNotSentToAnImpostor(t *testing.T) {
	t.Parallel()
	real, impostor := newOperator(t), newOperator(t)
	p := newPod(t, rules(ruleset.Link{Address: impostor.link().Address, CABundle: real.ca}), "")
	p.start()
	eventually(t, "the impostor is noticed", func() bool { return strings.Contains(p.logs.String(), "unknown authority") })
	if got := impostor.count(); got != 0 {
		t.Errorf("an operator that does not verify got %d requests, expected none", got)
	}
}

func TestAddressAndAuthoritiesAreThoseOfTheNewestRuleset(t *testing.T) {
	t.Parallel()
	before, after := newOperator(t), newOperator(t)
	moved := rules(after.link(), "spotify")
	before.program(moved)
	after.program(moved)
	p := newPod(t, rules(before.link(), "spotify"), "")
	p.start()
	after.acknowledged(moved.Version)
}

func TestUnknownFieldsAreANewerOperators(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	r := rules(o.link(), "spotify")
	encoded, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	o.set(func(o *operator) {
		o.raw = writeBodyOf(strings.Replace(string(encoded), `{`, `{"later":[1],`, 1))
	})
	p := newPod(t, stamped(r), "")
	p.start()
	eventually(t, "the Ruleset is in force", func() bool { return slices.Contains(p.inForce(), r.Version) })
}

func TestRestartedSidecarEnforcesItsLastRules(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	r := rules(o.link(), "spotify")
	bootstrap := stamped(r)
	o.program(r)
	p := newPod(t, bootstrap, "")
	stop := p.start()
	o.acknowledged(r.Version)
	stop()
	o.stop()

	file, err := os.Stat(p.saved)
	if err != nil || file.Mode().Perm() != 0o600 {
		t.Fatalf("the saved Ruleset has mode %v, %v; expected 0600", file.Mode(), err)
	}
	again := newPod(t, bootstrap, p.dir)
	again.Restore()
	if got := again.inForce(); !slices.Equal(got, []string{r.Version}) {
		t.Errorf("applied %v, expected the saved %s", got, r.Version)
	}
	if !again.Ready() {
		t.Error("not ready, although a Ruleset with a Store is in force")
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".ruleset-*")); len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestUnusableSavedRulesetIsIgnored(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	elsewhere := rules(o.link())
	elsewhere.Namespace = "other"
	elsewhere.Seal()
	encode := func(r *ruleset.Ruleset) string {
		encoded, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	for _, c := range []struct{ reason, content string }{
		{"it is empty", ""},
		{"it was cut off", encode(rules(o.link(), "spotify"))[:50]},
		{"it is another namespace's", encode(elsewhere)},
		{"it is larger than any Ruleset", `"` + strings.Repeat("x", maxRuleset) + `"`},
		{"it cannot be applied", encode(rules(o.link(), "impossible"))},
	} {
		bootstrap := stamped(rules(o.link(), "spotify"))
		p := newPod(t, bootstrap, "")
		p.write(savedName, c.content)
		p.Restore()
		if got := p.inForce(); !slices.Equal(got, []string{bootstrap.Version}) {
			t.Errorf("%s: applied %v, expected the Bootstrap's %s", c.reason, got, bootstrap.Version)
		}
		if p.logs.String() == "" {
			t.Errorf("%s: nothing was logged, expected a warning", c.reason)
		}
	}
}

func TestRulesetThatCannotBeSavedIsEnforcedAllTheSame(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	r := rules(o.link(), "spotify")
	o.program(r)
	p := newPod(t, stamped(r), "")
	p.saved = filepath.Join(p.dir, "missing", savedName)
	p.start()
	o.acknowledged(r.Version)
	if !strings.Contains(p.logs.String(), "could not be saved") {
		t.Errorf("nothing says that it was not saved:\n%s", p.logs)
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	_, ca := selfSigned(t)
	away := ruleset.Link{Address: gone.Listener.Addr().String(), CABundle: ca}

	p := newPod(t, stamped(rules(away, "spotify")), "")
	p.start()
	if p.Ready() {
		t.Error("ready at once without a Store and without the operator, expected to wait")
	}
	p.Client.mu.Lock()
	p.readyAt = time.Now()
	p.Client.mu.Unlock()
	if !p.Ready() {
		t.Error("not ready after its patience, expected not to keep the application waiting")
	}

	o := newOperator(t)
	r := stamped(rules(o.link()))
	o.program(r)
	p = newPod(t, r, "")
	p.start()
	eventually(t, "it is ready because the operator has nothing newer", p.Ready)
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	const first, longest = 100 * time.Millisecond, 5 * time.Second
	for _, c := range []struct {
		reason   string
		failures int
		random   float64
		want     time.Duration
	}{
		{"never less than the first", 1, 0, first},
		{"doubles, halved by the smallest jitter", 3, 0, 200 * time.Millisecond},
		{"three quarters in the middle", 3, 0.5, 300 * time.Millisecond},
		{"bounded", 100, 0.999999999, longest},
		{"does not overflow", 1 << 40, 0, longest / 2},
	} {
		got := backoff(c.failures, first, longest, c.random)
		if difference := got - c.want; difference.Abs() > time.Microsecond {
			t.Errorf("%s: got %v, expected %v", c.reason, got, c.want)
		}
	}
}
