package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ConcurrencyPolicy says what becomes of a run while an earlier one of the same
// task is unfinished: queued, running, or waiting for a retry.
// +kubebuilder:validation:Enum=Allow;Forbid;Replace
type ConcurrencyPolicy string

const (
	// ConcurrencyPolicyAllow lets runs overlap.
	ConcurrencyPolicyAllow ConcurrencyPolicy = "Allow"
	// ConcurrencyPolicyForbid leaves the new run out.
	ConcurrencyPolicyForbid ConcurrencyPolicy = "Forbid"
	// ConcurrencyPolicyReplace revokes the earlier run.
	ConcurrencyPolicyReplace ConcurrencyPolicy = "Replace"
)

// PeriodicTaskSpec declares when a task is enqueued, and who works its queue.
// +kubebuilder:validation:XValidation:rule="self.task.queue == oldSelf.task.queue",message="queue is immutable: delete the task and create another",fieldPath=".task.queue"
type PeriodicTaskSpec struct {
	// schedule in cron's five fields (minute, hour, day of month, month, day of
	// week), or a macro like "@hourly".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^\\\\s*(@[a-z]+(\\\\s+[0-9a-z.]+)?|[^@\\\\s]\\\\S*(\\\\s+\\\\S+){4})\\\\s*$') || self.contains('TZ=')",message="schedule has five fields (minute, hour, day of month, month, day of week), for example \"0 * * * *\", or is a macro like \"@hourly\""
	// +kubebuilder:validation:XValidation:rule="!self.contains('TZ=')",message="schedule names no time zone: use timeZone"
	Schedule string `json:"schedule,omitempty"`

	// timeZone of the schedule by its IANA name, for example "Asia/Kolkata".
	// Absent: the time zone of kube-controller-manager.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`
	// +kubebuilder:validation:XValidation:rule="self.lowerAscii() != 'local'",message="timeZone is an IANA name, for example \"Asia/Kolkata\" or \"Etc/UTC\", not \"Local\""
	TimeZone string `json:"timeZone,omitempty"`

	// suspend stops the schedule. The workers stay until the queue is empty.
	// +optional
	// +default=false
	Suspend *bool `json:"suspend,omitempty"`

	// concurrencyPolicy says what becomes of a run while an earlier one is
	// unfinished: Allow (both run), Forbid (the new one is left out) or Replace
	// (the earlier one is revoked).
	// +optional
	// +default="Allow"
	ConcurrencyPolicy ConcurrencyPolicy `json:"concurrencyPolicy,omitempty"`

	// startingDeadlineSeconds is how late a run may be enqueued when its time
	// was missed. Absent: no deadline.
	// +optional
	// +kubebuilder:validation:Minimum=0
	StartingDeadlineSeconds *int64 `json:"startingDeadlineSeconds,omitempty"`

	// successfulJobsHistoryLimit is how many Jobs that enqueued are kept.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +default=3
	SuccessfulJobsHistoryLimit *int32 `json:"successfulJobsHistoryLimit,omitempty"`

	// failedJobsHistoryLimit is how many Jobs that failed to enqueue are kept.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +default=1
	FailedJobsHistoryLimit *int32 `json:"failedJobsHistoryLimit,omitempty"`

	// task is what is enqueued.
	// +required
	Task TaskSpec `json:"task,omitzero"`

	// worker runs Weir's workers on the task's queue. Absent: somebody else's
	// workers, Celery's for example, take from it.
	// +optional
	Worker *WorkerSpec `json:"worker,omitempty"`
}

// TaskSpec is one call of a task.
// +kubebuilder:validation:XValidation:rule="!has(self.softTimeLimit) || !has(self.timeLimit) || duration(self.softTimeLimit) <= duration(self.timeLimit)",message="softTimeLimit must not exceed timeLimit",fieldPath=".softTimeLimit"
type TaskSpec struct {
	// name under which workers know the task, for example "tasks.add".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9_.:-]*$`
	Name string `json:"name,omitempty"`

	// args are the positional arguments: any JSON. With kwargs at most 64 KiB.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Args []JSON `json:"args,omitempty"`

	// kwargs are the arguments by name: any JSON. With args at most 64 KiB.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	// +kubebuilder:validation:MaxProperties=64
	Kwargs *runtime.RawExtension `json:"kwargs,omitempty"`

	// queue that the task is put into. Immutable.
	// +optional
	// +default="celery"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._:-]+$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['unacked', 'unacked_index', 'unacked_mutex']) && !self.startsWith('weir.') && !self.startsWith('_kombu.') && !self.startsWith('celery-task-meta-')",message="queue is the name of a key that Celery or Weir keeps for itself: choose another"
	Queue string `json:"queue,omitempty"`

	// priority is 0 (taken first) to 9. Absent: 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9
	Priority *int32 `json:"priority,omitempty"`

	// softTimeLimit is how long a run may take before it is asked to end, 1s to
	// 168h. Absent: the worker's.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('168h')",message="softTimeLimit must be from 1s to 168h (7 days)"
	SoftTimeLimit metav1.Duration `json:"softTimeLimit,omitzero"`

	// timeLimit is how long a run may take before it has failed, 1s to 168h.
	// Absent: the worker's.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('168h')",message="timeLimit must be from 1s to 168h (7 days)"
	TimeLimit metav1.Duration `json:"timeLimit,omitzero"`

	// expiresAfter is how long after its enqueuing a run may start, 1s to 744h;
	// later it is revoked. Absent: it does not expire.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('744h')",message="expiresAfter must be from 1s to 744h (31 days)"
	ExpiresAfter metav1.Duration `json:"expiresAfter,omitzero"`

	// retry says how often and when a failed run runs again. Absent: as the
	// worker does by itself.
	// +optional
	Retry *RetrySpec `json:"retry,omitempty"`

	// resultTTL is how long a run's result is kept, 1s to 744h.
	// +optional
	// +default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('744h')",message="resultTTL must be from 1s to 744h (31 days)"
	ResultTTL metav1.Duration `json:"resultTTL,omitempty,omitzero"`
}

// RetrySpec says how often and when a failed run runs again: after
// initialBackoff, doubled each time up to maxBackoff, less some at random.
// +kubebuilder:validation:XValidation:rule="duration(self.initialBackoff) <= duration(self.maxBackoff)",message="initialBackoff must not exceed maxBackoff",fieldPath=".initialBackoff"
type RetrySpec struct {
	// maxRetries after the first failure.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	MaxRetries *int32 `json:"maxRetries,omitempty"`

	// initialBackoff before the first retry, 1s to 24h.
	// +optional
	// +default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="initialBackoff must be from 1s to 24h"
	InitialBackoff metav1.Duration `json:"initialBackoff,omitempty,omitzero"`

	// maxBackoff before any retry, 1s to 24h.
	// +optional
	// +default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="maxBackoff must be from 1s to 24h"
	MaxBackoff metav1.Duration `json:"maxBackoff,omitempty,omitzero"`
}

// WorkerSpec is the workers of a task's queue.
type WorkerSpec struct {
	// replicas is the number of workers.
	// +optional
	// +default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Replicas *int32 `json:"replicas,omitempty"`

	// concurrency is how many tasks one worker runs at once.
	// +optional
	// +default=8
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	Concurrency int32 `json:"concurrency,omitempty"`

	// template is merged over the workers' pod template (a strategic merge): a
	// pod template of which only what differs is written. The worker's container
	// is named "worker"; with a command of its own (a Python worker's, say) it
	// gets none of our arguments, probes and ports.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Template *runtime.RawExtension `json:"template,omitempty"`
}

// ConditionWorkersAvailable is True when all of a PeriodicTask's workers are
// ready, or are somebody else's.
const ConditionWorkersAvailable = "WorkersAvailable"

// Reasons of a PeriodicTask's conditions, beside Accepted, NotAccepted and
// Ready. Their messages say what to change.
const (
	// ReasonInvalidSchedule: cron cannot read the schedule (Accepted=False).
	ReasonInvalidSchedule = "InvalidSchedule"
	// ReasonInvalidTimeZone: no such time zone is known (Accepted=False).
	ReasonInvalidTimeZone = "InvalidTimeZone"
	// ReasonInvalidArguments: args and kwargs are too large (Accepted=False).
	ReasonInvalidArguments = "InvalidArguments"
	// ReasonInvalidTemplate: worker.template is no pod template, or makes none
	// that Kubernetes accepts (Accepted=False).
	ReasonInvalidTemplate = "InvalidTemplate"
	// ReasonNameConflict: somebody else's CronJob or Deployment has the task's
	// name (Accepted=False).
	ReasonNameConflict = "NameConflict"

	// ReasonWorkersAvailable: all workers are ready (WorkersAvailable=True).
	ReasonWorkersAvailable = "WorkersAvailable"
	// ReasonExternal: the workers are somebody else's (WorkersAvailable=True).
	ReasonExternal = "External"
	// ReasonWorkersStarting: some workers start (WorkersAvailable=False).
	ReasonWorkersStarting = "WorkersStarting"
	// ReasonWorkersUnavailable: some workers cannot start (WorkersAvailable=False).
	ReasonWorkersUnavailable = "WorkersUnavailable"
	// ReasonSuspended: suspend, and the queue is worked off, so no worker is
	// left (WorkersAvailable=False).
	ReasonSuspended = "Suspended"

	// ReasonInvalidQueue: Redis refuses to use the task's queue (Ready=False).
	ReasonInvalidQueue = "InvalidQueue"
	// ReasonNoBroker: the operator was given no broker (Ready=False).
	ReasonNoBroker = "NoBroker"
	// ReasonBrokerUnavailable: the broker does not answer (Ready=False).
	ReasonBrokerUnavailable = "BrokerUnavailable"
)

// PeriodicTaskStatus is what the cluster and the broker make of a task.
type PeriodicTaskStatus struct {
	// observedGeneration is the spec's generation that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// lastScheduleTime is when the schedule last came due and was obeyed.
	// +optional
	LastScheduleTime *metav1.Time `json:"lastScheduleTime,omitempty"`

	// lastSuccessfulTime is when a run last ended well.
	// +optional
	LastSuccessfulTime *metav1.Time `json:"lastSuccessfulTime,omitempty"`

	// nextScheduleTime is when the schedule comes due next. Absent: suspended,
	// or never.
	// +optional
	NextScheduleTime *metav1.Time `json:"nextScheduleTime,omitempty"`

	// lastTask is the run that was enqueued last.
	// +optional
	LastTask *TaskRun `json:"lastTask,omitempty"`

	// queueDepth is how many messages of the queue wait, for workers or for
	// their time.
	// +optional
	QueueDepth *int64 `json:"queueDepth,omitempty"`

	// readyWorkers is how many workers are ready. Absent: they are somebody else's.
	// +optional
	ReadyWorkers *int32 `json:"readyWorkers,omitempty"`

	// workers is "ready/wanted", for kubectl get.
	// +optional
	Workers string `json:"workers,omitempty"`

	// conditions are Accepted, WorkersAvailable and Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// TaskRun is one run of a task.
type TaskRun struct {
	// id of the run's message and result.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	ID string `json:"id,omitempty"`

	// job that enqueued it.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Job string `json:"job,omitempty"`

	// enqueuedAt is when it was enqueued.
	// +optional
	EnqueuedAt *metav1.Time `json:"enqueuedAt,omitempty"`

	// state in Celery's words: PENDING, STARTED, RETRY, SUCCESS, FAILURE or REVOKED.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	State string `json:"state,omitempty"`

	// finishedAt is when the run ended.
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// error of a run that failed or waits for a retry, shortened.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Error string `json:"error,omitempty"`
}

// PeriodicTask gives a task a schedule, a queue and workers.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ptask,categories=weir
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 52",message="metadata.name has at most 52 characters, as a CronJob's"
// +kubebuilder:printcolumn:name="Schedule",type=string,JSONPath=`.spec.schedule`
// +kubebuilder:printcolumn:name="Queue",type=string,JSONPath=`.spec.task.queue`
// +kubebuilder:printcolumn:name="Last run",type=date,JSONPath=`.status.lastTask.enqueuedAt`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.lastTask.state`
// +kubebuilder:printcolumn:name="Next run",type=string,JSONPath=`.status.nextScheduleTime`
// +kubebuilder:printcolumn:name="Depth",type=integer,JSONPath=`.status.queueDepth`
// +kubebuilder:printcolumn:name="Workers",type=string,JSONPath=`.status.workers`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,priority=1,JSONPath=`.spec.suspend`
type PeriodicTask struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the object's.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is the schedule, the task and its workers.
	// +required
	Spec PeriodicTaskSpec `json:"spec,omitzero"`
	// status is what the cluster makes of it.
	// +optional
	Status PeriodicTaskStatus `json:"status,omitzero"`
}

// Suspended says whether the schedule is stopped.
func (t *PeriodicTask) Suspended() bool {
	return t.Spec.Suspend != nil && *t.Spec.Suspend
}

// PeriodicTaskList is a list of PeriodicTask.
// +kubebuilder:object:root=true
type PeriodicTaskList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []PeriodicTask `json:"items"`
}
