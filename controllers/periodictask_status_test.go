package controllers

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/worker/celery"
)

// taskScene is what decideTask is shown, built like sentences: an hourly task
// of two ready workers, at half past midnight.
type taskScene struct{ taskObserved }

func makeTaskScene() *taskScene {
	task := &v1alpha1.PeriodicTask{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "hourly", UID: "t", Generation: 3}}
	task.Spec.Schedule = "0 * * * *"
	task.Spec.Task = v1alpha1.TaskSpec{Name: "tidy", Queue: "q"}
	task.Spec.Worker = &v1alpha1.WorkerSpec{Replicas: new(int32(2))}
	cronJob := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(epoch.Add(-time.Minute))}}
	cronJob.Spec.Schedule = task.Spec.Schedule
	return (&taskScene{taskObserved{
		task:    task,
		verdict: programming.Verdict{Accepted: true, Reason: v1alpha1.ReasonAccepted, Message: "Fine."},
		cronJob: cronJob,
		look:    &celery.Look{},
		now:     epoch.Add(30 * time.Minute),
	}}).workers(2, 2)
}

func (s *taskScene) workers(ready, wanted int32) *taskScene {
	s.deployment = &appsv1.Deployment{}
	s.deployment.Spec.Replicas = new(wanted)
	s.deployment.Status.AvailableReplicas = ready
	return s
}

func (s *taskScene) worker(change func(*corev1.Pod)) *taskScene {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "w-1"}}
	change(pod)
	s.taskObserved.workers = append(s.taskObserved.workers, pod)
	return s
}

func (s *taskScene) container(status corev1.ContainerStatus) *taskScene {
	status.Name, status.Image = "worker", "img"
	return s.worker(func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{status} })
}

func (s *taskScene) with(change func(*taskScene)) *taskScene { change(s); return s }

func (s *taskScene) suspended() *taskScene {
	s.task.Spec.Suspend, s.cronJob.Spec.Suspend = new(true), new(true)
	return s
}

func (s *taskScene) silent(err error) *taskScene { s.look, s.silence = nil, err; return s }

// ran says what the broker knows of the last run.
func (s *taskScene) ran(id string, state celery.State, text string) *taskScene {
	s.look.Last.ID = id
	s.look.Result = celery.Result{ID: id, State: state, Error: text, DoneAt: epoch}
	return s
}

// knew gives the status a last run.
func (s *taskScene) knew(id string, state celery.State) *taskScene {
	s.task.Status.LastTask = &v1alpha1.TaskRun{ID: id, State: string(state)}
	return s
}

// awaited gives the status a next run.
func (s *taskScene) awaited(at time.Time) *taskScene {
	s.task.Status.NextScheduleTime = new(metav1.NewTime(at))
	return s
}

// settled gives the task the status that was decided.
func (s *taskScene) wanting(replicas int32) *taskScene {
	s.task.Spec.Worker.Replicas = &replicas
	return s
}

func (s *taskScene) settled() *taskScene { s.task.Status = decideTask(&s.taskObserved); return s }

func waiting(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because."}}}
}

// refusal is an error that Redis answers.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestDecideTaskConditions(t *testing.T) {
	t.Parallel()
	crashed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}}
	for _, test := range []struct {
		reason         string
		scene          *taskScene
		workers, ready string
		message        string
	}{
		{"all is well", makeTaskScene(), "True WorkersAvailable", "True Ready", "The schedule is in force. 2 of 2 workers are ready."},
		{"Redis refuses the queue", makeTaskScene().silent(refusal("WRONGTYPE Operation against a key")), "True WorkersAvailable", "False InvalidQueue", "Redis refuses to use queue q (WRONGTYPE Operation against a key)."},
		{"workers start", makeTaskScene().workers(1, 2), "False WorkersStarting", "False WorkersStarting", "1 of 2 workers are ready."},
		{"more are ready than wanted, after scaling down", makeTaskScene().workers(4, 1), "True WorkersAvailable", "True Ready", "1 of 1 workers"},
		{"the Deployment is not there yet", makeTaskScene().with(func(s *taskScene) { s.deployment = nil }), "False WorkersStarting", "False WorkersStarting", "being created"},
		{"the workers are somebody else's", makeTaskScene().with(func(s *taskScene) { s.task.Spec.Worker, s.deployment = nil, nil }), "True External", "True Ready", "Somebody else's workers take from queue q."},
		{
			"a refused task", makeTaskScene().with(func(s *taskScene) {
				s.verdict = programming.Verdict{Reason: v1alpha1.ReasonInvalidSchedule, Message: "Bad."}
				s.cronJob, s.deployment = nil, nil
			}), "False NotAccepted", "False InvalidSchedule", "Bad.",
		},
		{
			"a refused edit says that the old goes on", makeTaskScene().with(func(s *taskScene) {
				s.verdict = programming.Verdict{Reason: v1alpha1.ReasonInvalidSchedule, Message: "Bad."}
			}), "True WorkersAvailable", "False InvalidSchedule", "Bad. Until then what was accepted before goes on.",
		},
		{"suspended with work left", makeTaskScene().suspended(), "True WorkersAvailable", "True Ready", "The schedule is suspended. 2 of 2 workers are ready."},
		{"suspended and worked off", makeTaskScene().suspended().workers(0, 0), "False Suspended", "False Suspended", "no worker is left"},
		{"no workers are wanted", makeTaskScene().wanting(0).workers(0, 0), "False WorkersUnavailable", "False WorkersUnavailable", "spec.worker.replicas is 0"},
		{"resumed a moment ago", makeTaskScene().workers(0, 0), "False WorkersStarting", "False WorkersStarting", "being created"},
		{"an image that is not there", makeTaskScene().workers(0, 2).container(waiting("ErrImagePull")), "False WorkersUnavailable", "False WorkersUnavailable", `Pod w-1: ImagePullBackOff: image "img"`},
		{"a new image that is not there, while the old works", makeTaskScene().container(waiting("ImagePullBackOff")), "False WorkersUnavailable", "False WorkersUnavailable", `2 of 2 workers are ready. Pod w-1: ImagePullBackOff: image "img"`},
		{"a Secret that is not there", makeTaskScene().workers(0, 2).container(waiting("CreateContainerConfigError")), "False WorkersUnavailable", "False WorkersUnavailable", "CreateContainerConfigError: container worker: because."},
		{"a container that is being made", makeTaskScene().workers(0, 2).container(waiting("ContainerCreating")), "False WorkersStarting", "False WorkersStarting", "0 of 2 workers are ready."},
		{
			"a crash loop, waiting", makeTaskScene().workers(0, 2).container(corev1.ContainerStatus{State: waiting("CrashLoopBackOff").State, LastTerminationState: crashed, RestartCount: 4}),
			"False WorkersUnavailable", "False WorkersUnavailable", "CrashLoopBackOff: container worker ends again and again, last with exit code 3 (Error). See kubectl logs w-1 -c worker --previous.",
		},
		{
			"a crash loop, running, says the same", makeTaskScene().workers(0, 2).container(corev1.ContainerStatus{LastTerminationState: crashed, RestartCount: 5}),
			"False WorkersUnavailable", "False WorkersUnavailable", "CrashLoopBackOff: container worker ends again and again, last with exit code 3 (Error). See kubectl logs w-1 -c worker --previous.",
		},
		{
			"a worker that came back", makeTaskScene().container(corev1.ContainerStatus{LastTerminationState: crashed, RestartCount: 5, Ready: true}),
			"True WorkersAvailable", "True Ready", "2 of 2",
		},
		{
			"no node has room", makeTaskScene().workers(0, 2).worker(func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available."}}
			}), "False WorkersUnavailable", "False WorkersUnavailable", "Pod w-1: Unschedulable: 0/1 nodes are available.",
		},
		{
			"a pod that goes is no trouble", makeTaskScene().container(waiting("ImagePullBackOff")).with(func(s *taskScene) {
				s.taskObserved.workers[0].DeletionTimestamp = new(metav1.NewTime(epoch))
			}), "True WorkersAvailable", "True Ready", "2 of 2",
		},
		{
			"pods that are refused", makeTaskScene().workers(0, 2).with(func(s *taskScene) {
				s.deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota"}}
			}), "False WorkersUnavailable", "False WorkersUnavailable", "Pods are refused: exceeded quota",
		},
		{"the store's password is nobody's", makeTaskScene().silent(errProtected), "True WorkersAvailable", "False NoBroker", "password, which goes into no namespace"},
		{"no broker is configured", makeTaskScene().silent(errNoBroker), "True WorkersAvailable", "False NoBroker", "Secret weir-broker"},
		{"the broker comes before the workers, which fail with it", makeTaskScene().workers(0, 2).silent(errors.New("looking: refused.")), "False WorkersStarting", "False BrokerUnavailable", "The broker does not answer (looking: refused). Until"},
		{
			"the broker's first error stays", makeTaskScene().silent(errors.New("first")).settled().silent(errors.New("second")),
			"True WorkersAvailable", "False BrokerUnavailable", "(first)",
		},
		{"the broker is back", makeTaskScene().silent(errors.New("gone")).settled().with(func(s *taskScene) { s.look, s.silence = &celery.Look{}, nil }), "True WorkersAvailable", "True Ready", "in force"},
	} {
		status := decideTask(&test.scene.taskObserved)
		show := func(conditionType string) string {
			c := meta.FindStatusCondition(status.Conditions, conditionType)
			return string(c.Status) + " " + c.Reason
		}
		if got := show(v1alpha1.ConditionWorkersAvailable); got != test.workers {
			t.Errorf("%s: got WorkersAvailable %s, want %s", test.reason, got, test.workers)
		}
		if got := show(v1alpha1.ConditionReady); got != test.ready {
			t.Errorf("%s: got Ready %s, want %s", test.reason, got, test.ready)
		}
		if got := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady).Message; !strings.Contains(got, test.message) {
			t.Errorf("%s: got message %q, want %q in it", test.reason, got, test.message)
		}
		test.scene.task.Status = status
		test.scene.now = test.scene.now.Add(time.Second)
		if again := decideTask(&test.scene.taskObserved); !equality.Semantic.DeepEqual(status, again) {
			t.Errorf("%s: decided again, the status is another:\n%+v\n%+v", test.reason, status, again)
		}
	}
}

func TestDecideTaskLastRun(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 5000)
	for _, test := range []struct {
		reason    string
		scene     *taskScene
		id, state string
		succeeded bool
	}{
		{"none yet", makeTaskScene(), "", "", false},
		{"it waits", makeTaskScene().ran("a", celery.Pending, ""), "a", "PENDING", false},
		{"nothing is known of it yet", makeTaskScene().ran("a", "", ""), "a", "PENDING", false},
		{"it failed, at length", makeTaskScene().ran("a", celery.Failure, long), "a", "FAILURE", false},
		{"it ended well", makeTaskScene().knew("a", celery.Started).ran("a", celery.Success, ""), "a", "SUCCESS", true},
		{"its result is forgotten", makeTaskScene().knew("a", celery.Success).ran("a", "", ""), "a", "SUCCESS", false},
		{"another's result is not its own", makeTaskScene().knew("a", celery.Success).ran("b", "", ""), "b", "PENDING", false},
		{"the broker is away", makeTaskScene().knew("a", celery.Started).silent(errors.New("gone")), "a", "STARTED", false},
		{"the broker has lost everything", makeTaskScene().knew("a", celery.Success), "a", "SUCCESS", false},
	} {
		status := decideTask(&test.scene.taskObserved)
		id, state := "", ""
		if run := status.LastTask; run != nil {
			id, state = run.ID, run.State
			if len([]rune(run.Error)) > 1024 {
				t.Errorf("%s: the error has %d characters, at most 1024 can be stored", test.reason, len([]rune(run.Error)))
			}
		}
		if id != test.id || state != test.state {
			t.Errorf("%s: got %s %s, want %s %s", test.reason, id, state, test.id, test.state)
		}
		if got := status.LastSuccessfulTime != nil; got != test.succeeded {
			t.Errorf("%s: got lastSuccessfulTime %v", test.reason, status.LastSuccessfulTime)
		}
	}
}

func TestDecideTaskNextRun(t *testing.T) {
	t.Parallel()
	hour := func(h int) time.Time { return epoch.Add(time.Duration(h) * time.Hour) }
	lastRan := func(at time.Time) func(*taskScene) {
		return func(s *taskScene) { s.cronJob.Status.LastScheduleTime = new(metav1.NewTime(at)) }
	}
	clock := func(at time.Time) func(*taskScene) { return func(s *taskScene) { s.now = at } }
	for _, test := range []struct {
		reason string
		scene  *taskScene
		next   time.Time
		missed bool
	}{
		{"a new task waits for the next hour", makeTaskScene(), hour(1), false},
		{"a suspended one waits for nothing", makeTaskScene().suspended().awaited(hour(1)), time.Time{}, false},
		{"one without CronJob waits for nothing", makeTaskScene().with(func(s *taskScene) { s.cronJob = nil }), time.Time{}, false},
		{"a time that has just passed is waited for", makeTaskScene().awaited(hour(1)).with(clock(hour(1).Add(59 * time.Second))), hour(1), false},
		{"with its Job the next is", makeTaskScene().awaited(hour(1)).with(clock(hour(1).Add(time.Second))).with(lastRan(hour(1))), hour(2), false},
		{"after a minute without a Job it is missed", makeTaskScene().awaited(hour(1)).with(clock(hour(1).Add(time.Minute))), hour(2), true},
		{"a later Job stands for the times before it", makeTaskScene().awaited(hour(1)).with(clock(hour(3).Add(time.Minute))).with(lastRan(hour(3))), hour(4), false},
		{"what an edit took off the schedule is not missed", makeTaskScene().awaited(epoch.Add(15 * time.Minute)), hour(1), false},
		{"an edit that comes due earlier is obeyed", makeTaskScene().awaited(hour(5)), hour(1), false},
		{"what came due before the CronJob was is not missed", makeTaskScene().awaited(hour(-1)), hour(1), false},
		{
			"an interval counts from the last run", makeTaskScene().with(lastRan(epoch.Add(20 * time.Minute))).with(func(s *taskScene) { s.cronJob.Spec.Schedule = "@every 25m" }),
			epoch.Add(45 * time.Minute), false,
		},
	} {
		status := decideTask(&test.scene.taskObserved)
		var got time.Time
		if status.NextScheduleTime != nil {
			got = status.NextScheduleTime.Time
		}
		if !got.Equal(test.next) {
			t.Errorf("%s: got next run %v, want %v", test.reason, got, test.next)
		}
		told := false
		for _, n := range newsOf(&test.scene.taskObserved, &status) {
			told = told || n.reason == eventMissedRun
		}
		if told != test.missed {
			t.Errorf("%s: got MissedRun %v, want %v", test.reason, told, test.missed)
		}
		test.scene.task.Status = status
		for _, n := range newsOf(&test.scene.taskObserved, &status) {
			t.Errorf("%s: told %s twice", test.reason, n.reason)
		}
	}
}

func TestNewsOfRunsComeOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason string
		scene  *taskScene
		told   bool
	}{
		{"a run that fails", makeTaskScene().knew("a", celery.Started).ran("a", celery.Failure, "no"), true},
		{"a run that expired", makeTaskScene().knew("a", celery.Pending).ran("a", celery.Revoked, "expired"), true},
		{"a run that fails like the one before", makeTaskScene().knew("a", celery.Failure).ran("b", celery.Failure, "no"), true},
		{"a failure that the status has", makeTaskScene().knew("a", celery.Failure).ran("a", celery.Failure, "no"), false},
		{"a run that is tried again", makeTaskScene().ran("a", celery.Retry, "no"), false},
		{"a run that ends well", makeTaskScene().ran("a", celery.Success, ""), false},
	} {
		status := decideTask(&test.scene.taskObserved)
		told := false
		for _, n := range newsOf(&test.scene.taskObserved, &status) {
			told = told || n.reason == eventRunFailed
		}
		if told != test.told {
			t.Errorf("%s: got RunFailed %v, want %v", test.reason, told, test.told)
		}
	}
}

func TestReplicasOfASuspendedTask(t *testing.T) {
	t.Parallel()
	active := func(s *taskScene) { s.jobs = []batchv1.Job{{}} }
	for _, test := range []struct {
		reason string
		scene  *taskScene
		want   int32
	}{
		{"it is not suspended", makeTaskScene(), 2},
		{"the queue is empty", makeTaskScene().suspended(), 0},
		{"a message waits", makeTaskScene().suspended().with(func(s *taskScene) { s.look.Waiting = 1 }), 2},
		{"a message waits for its time", makeTaskScene().suspended().with(func(s *taskScene) { s.look.Delayed = 1 }), 2},
		{"a message is worked", makeTaskScene().suspended().with(func(s *taskScene) { s.look.Running = 1 }), 2},
		{"a Job may still enqueue", makeTaskScene().suspended().with(active), 2},
		{"the CronJob has not heard of it", makeTaskScene().suspended().with(func(s *taskScene) { s.cronJob.Spec.Suspend = new(false) }), 2},
		{"the broker is away", makeTaskScene().suspended().silent(errors.New("gone")), 2},
		{"its workers went, and somebody used the queue", makeTaskScene().suspended().workers(0, 0).with(func(s *taskScene) { s.look.Waiting = 1 }), 0},
		{"it goes on", makeTaskScene().workers(0, 0), 2},
	} {
		if got := test.scene.replicas(); got != test.want {
			t.Errorf("%s: got %d, want %d", test.reason, got, test.want)
		}
	}
}

func TestWhatADeletionWaitsFor(t *testing.T) {
	t.Parallel()
	dying := func(since time.Duration) []corev1.Pod {
		return []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: new(metav1.NewTime(epoch.Add(-since)))}}}
	}
	for _, test := range []struct {
		reason  string
		jobs    []batchv1.Job
		pods    []corev1.Pod
		patient bool
		want    bool
	}{
		{"nothing is left", nil, nil, true, false},
		{"a pod that nobody has deleted yet", nil, []corev1.Pod{{}}, true, true},
		{"a pod that nobody deletes", nil, []corev1.Pod{{}}, false, false},
		{"a pod in its grace period, however long", nil, dying(-time.Hour), false, true},
		{"a pod that does not go", nil, dying(time.Minute), true, false},
		{"a pod that has ended", nil, []corev1.Pod{{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}}, true, false},
		{"a Job that may make another pod", []batchv1.Job{{}}, nil, true, true},
		{"a Job that nobody deletes", []batchv1.Job{{}}, nil, false, false},
		{"a Job that has ended", []batchv1.Job{{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}}}}, nil, true, false},
	} {
		if got := isBusy(test.jobs, test.pods, test.patient, epoch); got != test.want {
			t.Errorf("%s: got %v, want %v", test.reason, got, test.want)
		}
	}
}
