package dashboard

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/access"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/worker/celery"
)

// Reasons of the events on PeriodicTasks.
const (
	eventRun     = "RunRequested"
	eventRetried = "RunRetried"
	eventRevoked = "RunRevoked"
)

const (
	actionTimeout = 10 * time.Second
	saidLife      = time.Minute
	maxNoteBytes  = 1000
)

// doer carries an action out and says what came of it, and where to go then.
type doer func(context.Context, *visitor, *http.Request) (said, next string, err error)

// action serves a POST.
func (s *Server) action(pattern string, do doer) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
		defer cancel()
		user, who, ambient, err := s.identify(r, s.acting)
		if err != nil && !errors.Is(err, errNobody) && !errors.Is(err, access.ErrUnauthenticated) {
			err = s.unsaid(err)
		}
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		csrf := s.sealer.csrf(who)
		if ambient && subtle.ConstantTimeCompare([]byte(r.PostFormValue("csrf")), []byte(csrf)) != 1 {
			s.refuse(w, r, problem(http.StatusForbidden, "This did not come from a page that you were given. Open the page again, and try again there."))
			return
		}
		said, next, err := do(ctx, &visitor{user: user, csrf: csrf, s: s}, r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.setCookie(w, r, saidCookie, s.sealer.seal("said", said, saidLife), int(saidLife.Seconds()))
		http.Redirect(w, r, next, http.StatusSeeOther)
	})
}

// said is what came of the action before, once.
func (s *Server) said(w http.ResponseWriter, r *http.Request) string {
	cookie, err := r.Cookie(saidCookie)
	if err != nil {
		return ""
	}
	s.setCookie(w, r, saidCookie, "", -1)
	text, _ := s.sealer.open("said", cookie.Value)
	return text
}

// must have the API server say, now, that the visitor may use a verb on the runs
// of one of some namespaces, "" being all; it returns that namespace.
func (v *visitor) must(ctx context.Context, verb, name string, namespaces ...string) (string, error) {
	for _, namespace := range namespaces {
		may, err := v.s.acting.May(ctx, v.user, access.Attempt{
			Namespace: namespace, Resource: "periodictasks", Subresource: "runs", Name: name, Verb: verb,
		})
		if err != nil {
			return "", v.s.unsaid(err)
		}
		if may {
			return namespace, nil
		}
	}
	where := "in all namespaces, since it belongs to no PeriodicTask: a ClusterRole has to allow it"
	for _, namespace := range namespaces {
		if namespace != "" {
			where = "in namespace " + namespace + ": a Role there has to allow it"
			break
		}
	}
	v.s.o.Logger.Info("refused", "user", v.user.Username, "verb", verb, "resource", "periodictasks/runs", "namespaces", namespaces)
	return "", problem(http.StatusForbidden, "User %s may not %s periodictasks/runs %s (apiGroups [weir.dev], resources [periodictasks/runs], verbs [%s]).", v.user.Username, verb, where, verb)
}

// unsaid: the API server did not say who somebody is, or what they may.
func (s *Server) unsaid(err error) error {
	s.o.Logger.Error(err, "cannot say who may act")
	return problem(http.StatusServiceUnavailable, "The API server cannot be asked what you may. Try again in a moment.")
}

// owners are the namespaces whose people may act on a task of a scope, and all.
func (s *Server) owners(ctx context.Context, scope tasks.Scope) ([]string, error) {
	if scope.PeriodicTask != "" {
		return []string{namespaceOf(scope.PeriodicTask)}, nil
	}
	found, _, err := s.periodicTasks(ctx)
	if err != nil {
		return nil, err
	}
	var namespaces []string
	for i := range found {
		if found[i].Spec.Task.Queue == scope.Queue {
			namespaces = append(namespaces, found[i].Namespace)
		}
	}
	return append(namespaces, ""), nil
}

// audit says who did what, as an event of the PeriodicTask that it is about, and
// in the log.
func (s *Server) audit(ctx context.Context, v *visitor, scope tasks.Scope, reason, action, format string, args ...any) {
	sentence := v.user.Username + " " + fmt.Sprintf(format, args...)
	s.o.Logger.Info(sentence, "periodicTask", scope.PeriodicTask, "queue", scope.Queue)
	about := scope.PeriodicTask
	if about == "" { // one of those that share the queue
		found, _, _ := s.periodicTasks(ctx)
		for i := range found {
			if found[i].Spec.Task.Queue == scope.Queue {
				about = found[i].Namespace + "/" + found[i].Name
				break
			}
		}
	}
	namespace, name, _ := strings.Cut(about, "/")
	task := &v1alpha1.PeriodicTask{}
	if about == "" || s.o.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, task) != nil {
		return
	}
	s.o.Recorder.Eventf(task, nil, corev1.EventTypeNormal, reason, action, "%s", strings.ToValidUTF8(sentence[:min(len(sentence), maxNoteBytes)], ""))
}

// runNow enqueues a PeriodicTask's call as its CronJob's Jobs do.
func (s *Server) runNow(ctx context.Context, v *visitor, r *http.Request) (said, next string, err error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	if _, err := v.must(ctx, "create", name, namespace); err != nil {
		return "", "", err
	}
	task := &v1alpha1.PeriodicTask{}
	err = s.o.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, task)
	if apierrors.IsNotFound(err) {
		return "", "", problem(http.StatusNotFound, "There is no PeriodicTask %s in namespace %s.", name, namespace)
	}
	if err != nil {
		return "", "", err
	}
	broker, err := s.broker()
	if err != nil {
		return "", "", err
	}
	job := "by-hand-" + uuid.NewString()[:8]
	call, err := occurrence(task, job, time.Now())
	if err != nil {
		return "", "", problem(http.StatusConflict, "The PeriodicTask cannot be run: %v.", err)
	}
	policy := celery.Concurrency(cmp.Or(string(task.Spec.ConcurrencyPolicy), string(celery.Allow)))
	became, before, err := broker.EnqueueOccurrence(ctx, call, job, policy)
	if err != nil {
		return "", "", unanswered(err)
	}
	scope := tasks.Scope{PeriodicTask: namespace + "/" + name, Queue: task.Spec.Task.Queue}
	if became == celery.Skipped {
		return fmt.Sprintf("Nothing was enqueued: the run before is not finished, and concurrencyPolicy is Forbid (run %s).", before), back(r, "/schedules"), nil
	}
	s.audit(ctx, v, scope, eventRun, "Run", "ran the task now, as %s", call.ID)
	return "Enqueued " + task.Spec.Task.Name + " on " + task.Spec.Task.Queue + ".", "/tasks/" + url.PathEscape(call.ID), nil
}

// occurrence is the call that worker enqueue makes of the same PeriodicTask.
func occurrence(task *v1alpha1.PeriodicTask, job string, now time.Time) (celery.Signature, error) {
	spec := &task.Spec.Task
	args, kwargs, err := manifests.Arguments(spec)
	if err != nil {
		return celery.Signature{}, err
	}
	call := celery.Signature{
		ID: celery.OccurrenceID(string(task.UID), job, ""), Task: spec.Name, Queue: spec.Queue,
		SoftTimeLimit: spec.SoftTimeLimit.Duration, TimeLimit: spec.TimeLimit.Duration, ResultTTL: spec.ResultTTL.Duration,
		PeriodicTask: task.Namespace + "/" + task.Name, Kwargs: map[string]any{},
	}
	if err := addArguments(&call, args, kwargs); err != nil {
		return call, err
	}
	if spec.Priority != nil {
		call.Priority = int(*spec.Priority)
	}
	if spec.ExpiresAfter.Duration > 0 {
		call.Expires = now.Add(spec.ExpiresAfter.Duration)
	}
	if retry := spec.Retry; retry != nil && retry.MaxRetries != nil {
		call.Retry = &celery.RetryPolicy{MaxRetries: int(*retry.MaxRetries), InitialBackoff: retry.InitialBackoff.Duration, MaxBackoff: retry.MaxBackoff.Duration}
	}
	return call, nil
}

// addArguments keeps values as they are written: an id of 18 digits is no float.
func addArguments(call *celery.Signature, args, kwargs string) error {
	var values []json.RawMessage
	var named map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal([]byte(args), &values), json.Unmarshal([]byte(kwargs), &named)); err != nil {
		return fmt.Errorf("reading its arguments: %w", err)
	}
	for _, value := range values {
		call.Args = append(call.Args, value)
	}
	call.Kwargs = map[string]any{}
	for name, value := range named {
		call.Kwargs[name] = value
	}
	return nil
}

// known is a task that the visitor may use a verb on.
func (s *Server) known(ctx context.Context, v *visitor, id, verb string) (tasks.Task, error) {
	task, is := s.o.Tasks.Get(id)
	owners, err := s.owners(ctx, task.Scope)
	if err != nil {
		return task, err
	}
	if _, err := v.must(ctx, verb, "", owners...); err != nil {
		return task, err
	}
	if !is {
		return task, problem(http.StatusNotFound, "No task %s is known: it has ended long ago, or never was.", id)
	}
	return task, nil
}

func (s *Server) revoke(ctx context.Context, v *visitor, r *http.Request) (said, next string, err error) {
	task, err := s.known(ctx, v, r.PathValue("id"), "delete")
	if err != nil {
		return "", "", err
	}
	broker, err := s.broker()
	if err != nil {
		return "", "", err
	}
	s.audit(ctx, v, task.Scope, eventRevoked, "Revoke", "revoked %s of task %s", task.ID, task.Name)
	if err := broker.Revoke(ctx, task.ID, true); err != nil {
		return "", "", unanswered(err)
	}
	return "Revoked. It does not start any more, and is ended where it runs.", back(r, "/tasks/"+url.PathEscape(task.ID)), nil
}

// retry puts a task's dead letter back, or where there is none enqueues the same
// call again.
func (s *Server) retry(ctx context.Context, v *visitor, r *http.Request) (said, next string, err error) {
	task, err := s.known(ctx, v, r.PathValue("id"), "create")
	if err != nil {
		return "", "", err
	}
	if !task.State.Ended() {
		return "", "", problem(http.StatusConflict, "The task has not ended: there is nothing to try again.")
	}
	broker, err := s.broker()
	if err != nil {
		return "", "", err
	}
	if task.Queue != "" {
		revived, err := broker.Revive(ctx, task.Queue, task.ID)
		if err != nil {
			return "", "", unanswered(err)
		}
		if revived > 0 {
			s.audit(ctx, v, task.Scope, eventRetried, "Retry", "put the dead letter %s of task %s back", task.ID, task.Name)
			return "It is back in its queue.", "/tasks/" + url.PathEscape(task.ID), nil
		}
	}
	result, err := broker.ReadResult(ctx, task.ID)
	if err != nil {
		return "", "", unanswered(err)
	}
	if task.Name == "" || task.Queue == "" || result.Args == nil {
		return "", "", problem(http.StatusConflict, "It cannot be tried again from here: its arguments are not known any more. Weir's workers keep those up to 2 KiB with the result, Celery's with result_extended.")
	}
	call := celery.Signature{ID: uuid.NewString(), Task: task.Name, Queue: task.Queue, PeriodicTask: task.PeriodicTask}
	if err := addArguments(&call, string(result.Args), string(result.Kwargs)); err != nil {
		return "", "", problem(http.StatusConflict, "It cannot be tried again from here: %v.", err)
	}
	if err := broker.Enqueue(ctx, call); err != nil {
		return "", "", unanswered(err)
	}
	s.audit(ctx, v, task.Scope, eventRetried, "Retry", "ran %s of task %s again, as %s", task.ID, task.Name, call.ID)
	return "Enqueued again, as another task with the same arguments.", "/tasks/" + url.PathEscape(call.ID), nil
}

// revive puts dead letters of a queue back: one, or all that the visitor may.
func (s *Server) revive(ctx context.Context, v *visitor, r *http.Request) (said, next string, err error) {
	queue, id := r.PostFormValue("queue"), r.PostFormValue("id")
	if celery.CheckQueue(queue) != nil {
		return "", "", problem(http.StatusBadRequest, "The form names no queue.")
	}
	broker, err := s.broker()
	if err != nil {
		return "", "", err
	}
	letters, _, err := broker.DeadLetters(ctx, queue, celery.DefaultDeadLetters)
	if err != nil {
		return "", "", unanswered(err)
	}
	var ids []string
	may := map[tasks.Scope]bool{}
	var refused error
	for i := range letters {
		if letters[i].ID == "" || id != "" && letters[i].ID != id {
			continue
		}
		scope := tasks.Scope{PeriodicTask: periodicTaskOf(&letters[i]), Queue: queue}
		if _, asked := may[scope]; !asked {
			owners, err := s.owners(ctx, scope)
			if err != nil {
				return "", "", err
			}
			_, err = v.must(ctx, "create", "", owners...)
			if may[scope] = err == nil; err != nil {
				refused = err
			}
		}
		if may[scope] {
			ids = append(ids, letters[i].ID)
		}
	}
	if len(ids) == 0 && refused != nil {
		return "", "", refused
	}
	if len(ids) == 0 {
		return "", "", problem(http.StatusNotFound, "There is no such dead letter any more in queue %s.", queue)
	}
	revived, err := broker.Revive(ctx, queue, ids...)
	if err != nil {
		return "", "", unanswered(err)
	}
	for scope, may := range may {
		if may {
			s.audit(ctx, v, scope, eventRetried, "Retry", "put %d dead letters of queue %s back", revived, queue)
		}
	}
	if revived == 1 {
		return "One dead letter is back in queue " + queue + ".", "/dead", nil
	}
	return fmt.Sprintf("%d dead letters are back in queue %s.", revived, queue), "/dead", nil
}

// periodicTaskOf a dead letter; empty: none, or it cannot be read.
func periodicTaskOf(letter *celery.DeadLetter) string {
	if m, _ := celery.Decode(letter.Message); m != nil {
		return m.PeriodicTask
	}
	return ""
}

func (s *Server) broker() (*celery.Broker, error) {
	broker, err := s.o.Broker()
	if err != nil {
		return nil, problem(http.StatusServiceUnavailable, "Redis cannot be asked: %v. Nothing was done.", err)
	}
	return broker, nil
}

func unanswered(err error) error {
	return problem(http.StatusServiceUnavailable, "Redis did not say whether it was done: %v.", err)
}

// back is where the visitor came from, if the form says.
func back(r *http.Request, otherwise string) string {
	if next := r.PostFormValue("next"); next != "" {
		return local(next)
	}
	return otherwise
}

func namespaceOf(key string) string {
	namespace, _, _ := strings.Cut(key, "/")
	return namespace
}

func compareKeys(aNamespace, aName, bNamespace, bName string) int {
	return cmp.Or(strings.Compare(aNamespace, bNamespace), strings.Compare(aName, bName))
}
