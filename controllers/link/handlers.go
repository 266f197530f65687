package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// podPatience is how long the cache may take to learn of a pod. A sidecar
	// takes a request that is held for 2 s for accepted.
	podPatience = time.Second
	maxReason   = 1 << 10
)

// authenticated lets a request pass that has a token which means something, as
// was reviewed no longer than that ago.
func (s *Server) authenticated(longest time.Duration, next func(http.ResponseWriter, *http.Request, caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		found, err := s.tokens.authenticate(r.Context(), bearer(r), longest)
		if err != nil {
			no := s.refusalOf(err)
			maps.Copy(w.Header(), no.header)
			refuse(w, no.status, no.sentence)
			return
		}
		w.Header().Del("Connection")
		next(w, r, found)
	}
}

func bearer(r *http.Request) string {
	scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(credentials)
}

// refusal is an answer that gives nothing.
type refusal struct {
	status   int
	header   http.Header
	sentence string
}

func again(sentence string) refusal {
	return refusal{http.StatusServiceUnavailable, http.Header{"Retry-After": {"1"}}, sentence}
}

// refusalOf says why a token did not authenticate.
func (s *Server) refusalOf(err error) refusal {
	if errors.Is(err, errUnauthenticated) {
		return refusal{http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Bearer realm="weir"`}},
			"A service account token with audience " + ruleset.Audience + " is required."}
	}
	if s.complaints.due(time.Now()) { // it would be one of every sidecar
		s.options.Logger.Error(err, "cannot review tokens: sidecars keep the rules that they have")
	}
	return again("The API server cannot be asked whose token it is. Try again.")
}

// serveRuleset answers one Report: see ruleset.LinkPath. It is done outside of
// the HTTP server, see held: after a restart of the operator, most of the
// cluster's sidecars wait for their tokens' reviews at the same time.
func (s *Server) serveRuleset(w http.ResponseWriter, r *http.Request) {
	body, status, err := readReport(w, r)
	if err != nil {
		refuse(w, status, err.Error())
		return
	}
	asked := question{token: strings.Clone(bearer(r)), body: body}
	if s.unreviewed.Add(asked.size()) > maxUnreviewedBytes {
		s.unreviewed.Add(-asked.size())
		no := again("Too many requests wait for a review of their tokens. Try again.")
		maps.Copy(w.Header(), no.header)
		refuse(w, no.status, no.sentence)
		return
	}
	if h := s.takeOut(w, r); h != nil {
		h.begin(asked)
	} else {
		s.unreviewed.Add(-asked.size())
	}
}

// question is a request of which nothing is known yet.
type question struct {
	token string
	body  []byte
}

func (q *question) size() int64 { return int64(len(q.token) + len(q.body)) }

// admit says who asked, and keeps what the report acknowledges; or why not.
func (s *Server) admit(ctx context.Context, asked question) (caller, ruleset.Report, *refusal) {
	var report ruleset.Report
	from, err := s.tokens.authenticate(ctx, asked.token, podTokenKnownFor)
	s.unreviewed.Add(-asked.size())
	if err != nil {
		no := s.refusalOf(err)
		return from, report, &no
	}
	if from.uid == "" {
		return from, report, &refusal{status: http.StatusForbidden,
			sentence: "The token of " + from.username + " is not bound to a pod: only a pod's own projected token may ask."}
	}
	if err := json.Unmarshal(asked.body, &report); err != nil {
		return from, report, &refusal{status: http.StatusBadRequest, sentence: "The body is not a report in JSON."}
	}
	if report.Rejected != nil && len(report.Rejected.Reason) > maxReason {
		report.Rejected.Reason = strings.ToValidUTF8(report.Rejected.Reason[:maxReason], "")
	}
	rung, hangUp := s.options.Rulesets.listen(from.pod)
	defer hangUp()
	if err := s.admitPod(ctx, from, rung); err != nil {
		return from, report, &refusal{status: http.StatusForbidden, sentence: err.Error()}
	}
	s.options.Acknowledgements.Record(Acknowledgement{
		Namespace: from.pod.Namespace, Pod: from.pod.Name, UID: from.uid,
		Enforcing: report.Enforcing, Rejected: report.Rejected, NotIntercepting: report.NotIntercepting,
		StoreAwaySince: min(max(report.StoreAwaySince, 0), time.Now().Unix()), Seen: time.Now(),
	})
	return from, report, nil
}

// news is what there is to tell a sidecar; nothing when it is zero.
type news struct {
	answer *answer
	// gone: there is no such pod any more.
	gone bool
}

// newer says whether the pod's Ruleset is another than the one that it enforces
// or has rejected.
func (s *Server) newer(ctx context.Context, from caller, report ruleset.Report) (news, error) {
	pod, err := s.podOf(ctx, from)
	if err != nil {
		return news{gone: true}, nil //nolint:nilerr // its next request is told so
	}
	current, err := s.options.Rulesets.of(ctx, pod)
	if err != nil {
		return news{}, err
	}
	rejected := report.Rejected != nil && report.Rejected.Version == current.version
	if current.version == report.Version || rejected {
		return news{}, nil
	}
	return news{answer: current}, nil
}

// admitPod waits a little for a pod that the cache does not know yet.
func (s *Server) admitPod(ctx context.Context, from caller, rung <-chan struct{}) error {
	waiting, cancel := context.WithTimeout(ctx, podPatience)
	defer cancel()
	for {
		_, err := s.podOf(ctx, from)
		if !errors.Is(err, errNoPod) {
			return err
		}
		select {
		case <-rung:
		case <-waiting.Done():
			return err
		}
	}
}

var errNoPod = errors.New("The pod that the token is bound to does not exist (any more).") //nolint:staticcheck // a sentence of an answer

// podOf is the pod that a token is bound to: not one of the same name.
func (s *Server) podOf(ctx context.Context, from caller) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := s.options.Cache.Get(ctx, from.pod, pod, client.UnsafeDisableDeepCopy) // only read
	switch {
	case apierrors.IsNotFound(err), err == nil && pod.UID != from.uid:
		return nil, errNoPod
	case err != nil:
		return nil, fmt.Errorf("Pod %s cannot be read: %w", from.pod, err) //nolint:staticcheck // a sentence of an answer
	case !HasSidecar(pod):
		return nil, fmt.Errorf("Pod %s has no sidecar.", from.pod) //nolint:staticcheck // a sentence of an answer
	default:
		return pod, nil
	}
}

// HasSidecar says whether a pod was injected.
func HasSidecar(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == v1alpha1.SidecarContainer
	})
}

// guarded bounds reading a request, also what its handler leaves unread: net/http
// reads that before it answers, and has no bound of its own. Until somebody says
// whose the request is, its connection ends with the answer: 13,000 that are kept
// for nothing would be all of the operator's memory.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		boundRead(w)
		w.Header().Set("Connection", "close")
		next.ServeHTTP(w, r)
	})
}

// readReport reads a bounded body. It is decoded once it is known whose it is.
func readReport(w http.ResponseWriter, r *http.Request) (body []byte, status int, err error) {
	body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxReportBytes))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("The report is larger than %d bytes.", maxReportBytes) //nolint:staticcheck // a sentence of an answer
	}
	if err != nil {
		return nil, http.StatusBadRequest, errors.New("The report cannot be read.") //nolint:staticcheck // a sentence of an answer
	}
	return slices.Clip(body), 0, nil
}

// serveAcknowledgements tells a peer what was acknowledged here after
// ?sequence= of ?epoch=; it waits for something to tell.
func (s *Server) serveAcknowledgements(w http.ResponseWriter, r *http.Request, from caller) {
	if from.username != s.options.Operator {
		refuse(w, http.StatusForbidden, "Only the operator's own service account may read acknowledgements.")
		return
	}
	sequence, err := strconv.ParseUint(r.URL.Query().Get("sequence"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, "The parameter sequence is not a number.")
		return
	}
	// The connection is read on meanwhile, to see it close.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	waiting, cancel := context.WithTimeout(r.Context(), s.options.Patience)
	defer cancel()
	next := s.options.Acknowledgements.after(waiting, r.URL.Query().Get("epoch"), sequence)
	boundRead(w)
	boundWrite(w)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(next) // a peer that is gone asks again
}

// complaints is when one of many equal errors was logged last.
type complaints struct{ last atomic.Int64 }

const complaintInterval = 10 * time.Second

func (c *complaints) due(now time.Time) bool {
	last := c.last.Load()
	return now.UnixNano()-last >= int64(complaintInterval) && c.last.CompareAndSwap(last, now.UnixNano())
}

func refuse(w http.ResponseWriter, status int, sentence string) {
	boundWrite(w)
	http.Error(w, sentence, status)
}

// boundRead gives the rest of the request requestTimeout.
func boundRead(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout))
}

// boundWrite gives the answer requestTimeout.
func boundWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(requestTimeout))
}
