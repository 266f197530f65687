package dashboard

import (
	"cmp"
	"context"
	"errors"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/weir-dev/weir/controllers/usage"
)

// callerData is one caller of a policy.
type callerData struct {
	Namespace, Name, Service string
	Who                      string // its name or pseudonym
	Unlimited, Admitted      bool
	Retry                    time.Time
	Limits                   []limitWindow
	Grant                    *usage.Grant
	Reset                    *usage.Reset
	Actions                  *callerActions // nil: none
	Refusals                 []refusalRow
	// Missing says why nothing is known of it, Silent why no refusals.
	Missing, Silent string
}

// callerActions are what the visitor may do to a caller, whom Key names in forms.
// Policy is the address of the policy's view, and Next where to go then.
type callerActions struct {
	Who, Key, Policy, Next, CSRF string
	MayReset, MayGrant           bool
}

// limitWindow is one limit of a caller.
type limitWindow struct {
	usage.Limit
	Reserved int64
	Frees    time.Time
	// Most units were admitted in a bucket of such a length.
	Most int64
	Step time.Duration
	// When draws when units were admitted, Left what remains from now on.
	When, Left template.HTML
	Admissions []admissions
}

// admissions are those of one bucket.
type admissions struct {
	At, Frees time.Time
	Units     int64
}

// caller is named by the parameter name, or in the path by the pseudonym of lists.
func (s *Server) caller(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	policy, err := s.policyOf(ctx, v, r)
	if err != nil {
		return nil, err
	}
	namespace, name, pseudonym := policy.Namespace, policy.Name, r.PathValue("pseudonym")
	path := policyPath(r) + "/callers/" + segment(pseudonym)
	if pseudonym == "" {
		if s.o.HideCallers {
			return nil, problem(http.StatusForbidden, "Nobody is told here who callers are (--hide-callers), nor asks by their names.")
		}
		path = policyPath(r) + "/window?identity=" + url.QueryEscape(r.URL.Query().Get("name"))
	}
	data := callerData{Namespace: namespace, Name: name, Service: policy.ServiceName()}
	var found usage.CallerWindow
	err = s.askUsage(ctx, v, http.MethodGet, path, nil, &found)
	if failed, is := errors.AsType[*failure](err); is && failed.status == http.StatusServiceUnavailable {
		// It stays open, and shows what there is when Redis answers.
		data.Who, data.Missing = cmp.Or(pseudonym, r.URL.Query().Get("name")), failed.sentence
		return &view{template: "caller", data: data, title: data.Who, section: "limits", every: ratesInterval}, nil
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	data = callerData{
		Namespace: namespace, Name: name, Service: data.Service, Who: whoIs(found.Name),
		Unlimited: found.Unlimited, Admitted: found.Admitted, Grant: found.Grant, Reset: found.Reset,
	}
	if found.RetryAfterSeconds > 0 {
		data.Retry = now.Add(seconds(found.RetryAfterSeconds))
	}
	reset, grant := v.may(ctx, namespace, "ratelimitpolicies", "resets", "create"), v.may(ctx, namespace, "ratelimitpolicies", "grants", "create")
	if found.Identity != nil && (reset || grant) {
		data.Actions = &callerActions{data.Who, encodeIdentity(*found.Identity), policyPage(r), r.URL.RequestURI(), v.csrf, reset, grant}
	}
	for i, limit := range found.Limits {
		data.Limits = append(data.Limits, windowRow(limit, found.Windows[i], now))
	}
	data.refused(ctx, s, v, policyPath(r), found.Name)
	return &view{template: "caller", data: data, title: data.Who, section: "limits", every: ratesInterval}, nil
}

// segment of a path is a name, also one of dots: a ServeMux takes those for a way up,
// and redirects.
func segment(name string) string { return strings.ReplaceAll(url.PathEscape(name), ".", "%2E") }

func seconds(n float64) time.Duration { return time.Duration(math.Round(n * float64(time.Second))) }

// endOf a bucket of a window.
func endOf(w *usage.Window, bucket int) time.Time {
	return w.Begin.Add(time.Duration(bucket+1) * seconds(w.StepSeconds))
}

func windowRow(limit usage.Limit, w usage.Window, now time.Time) limitWindow {
	row := limitWindow{Limit: limit, Reserved: w.Reserved, Step: seconds(w.StepSeconds), When: windowPlot(w), Left: leftPlot(limit, w, now)}
	if limit.FreesAfterSeconds > 0 {
		row.Frees = now.Add(seconds(limit.FreesAfterSeconds))
	}
	for i := len(w.Units) - 1; i >= 0; i-- {
		if units := w.Units[i]; units > 0 {
			at := endOf(&w, i)
			row.Most = max(row.Most, units)
			row.Admissions = append(row.Admissions, admissions{at, at.Add(w.Window.Duration), units})
		}
	}
	return row
}

// refused lists the caller's refusals, if the visitor may see them.
func (d *callerData) refused(ctx context.Context, s *Server, v *visitor, path string, caller usage.Name) {
	var refusals usage.Refusals
	if err := s.askUsage(ctx, v, http.MethodGet, path+"/refusals"+listed, nil, &refusals); err != nil {
		d.Silent = err.Error()
		return
	}
	d.Refusals, d.Silent = refusalsOf(refusals.Refusals, caller)
}

// refusalsOf are those of one caller, or why they are not known: by its name they are
// found only by who is told names.
func refusalsOf(all []usage.Refusal, caller usage.Name) (rows []refusalRow, silent string) {
	named := caller.Identity == nil || len(all) == 0
	for _, refusal := range all {
		named = named || refusal.Identity != nil
		same := refusal.Pseudonym == caller.Pseudonym && (refusal.Identity == nil) == (caller.Identity == nil)
		if same && (caller.Identity == nil || *refusal.Identity == *caller.Identity) {
			rows = append(rows, refusalRowOf(refusal))
		}
	}
	if !named {
		return nil, "Whose the last refusals were is for those who may get ratelimitpolicies/status."
	}
	return rows, ""
}

// callerPage is the address of a caller's view, by its name if the visitor may ask
// by names.
func callerPage(policyPage string, name usage.Name, mayAsk bool) string {
	switch {
	case name.Identity == nil:
		return policyPage + "/callers/" + url.PathEscape(name.Pseudonym)
	case mayAsk:
		return policyPage + "/callers?" + url.Values{"name": {*name.Identity}}.Encode()
	}
	return ""
}
