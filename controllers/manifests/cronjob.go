package manifests

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

const (
	enqueueContainer = "enqueue"
	// usageError is the exit code of a command line that will never be right.
	usageError = 2
	// enqueueDeadlineSeconds is how long a Job tries to enqueue: an image that
	// cannot be pulled and a broker that is away become a failed Job.
	enqueueDeadlineSeconds = 600
)

// CronJob enqueues the task when the schedule says. It is the only scheduler.
func CronJob(task *v1alpha1.PeriodicTask, config Config) (*batchv1.CronJob, error) {
	args, err := enqueueArgs(task)
	if err != nil {
		return nil, err
	}
	pod := podSpec(corev1.Container{
		Name:            enqueueContainer,
		Image:           config.Image,
		ImagePullPolicy: config.ImagePullPolicy,
		Command:         []string{"/worker", "enqueue"},
		Args:            args,
		// The id of the message comes from the Job: a pod that is retried
		// enqueues nothing twice.
		Env: append(brokerEnv(),
			fieldEnv("WEIR_JOB_NAME", "metadata.labels['"+batchv1.JobNameLabel+"']"),
			fieldEnv("WEIR_JOB_UID", "metadata.labels['"+batchv1.ControllerUidLabel+"']")),
		Resources: resources("10m", "16Mi", "64Mi"),
	})
	config.Traces.addTo(&pod.Containers[0])
	pod.RestartPolicy = corev1.RestartPolicyNever
	podLabels := labels(task, appEnqueue)
	podLabels[v1alpha1.LabelInject] = v1alpha1.InjectOptOut // it only talks to the broker

	cronJob := &batchv1.CronJob{
		TypeMeta:   metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "CronJob"},
		ObjectMeta: meta(task, appEnqueue),
		Spec: batchv1.CronJobSpec{
			Schedule:                   task.Spec.Schedule,
			Suspend:                    new(task.Suspended()),
			ConcurrencyPolicy:          batchv1.ConcurrencyPolicy(task.Spec.ConcurrencyPolicy),
			StartingDeadlineSeconds:    task.Spec.StartingDeadlineSeconds,
			SuccessfulJobsHistoryLimit: task.Spec.SuccessfulJobsHistoryLimit,
			FailedJobsHistoryLimit:     task.Spec.FailedJobsHistoryLimit,
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels(task, appEnqueue)},
				Spec: batchv1.JobSpec{
					ActiveDeadlineSeconds: new(int64(enqueueDeadlineSeconds)),
					PodFailurePolicy:      enqueueFailurePolicy(),
					Template: corev1.PodTemplateSpec{
						ObjectMeta: metav1.ObjectMeta{Labels: podLabels},
						Spec:       pod,
					},
				},
			},
		},
	}
	if task.Spec.TimeZone != "" {
		cronJob.Spec.TimeZone = new(task.Spec.TimeZone)
	}
	return cronJob, nil
}

// enqueueFailurePolicy fails the Job at once when trying again is in vain, and
// does not count what the node did to the pod.
func enqueueFailurePolicy() *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
		{
			Action: batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
				ContainerName: new(enqueueContainer),
				Operator:      batchv1.PodFailurePolicyOnExitCodesOpIn,
				Values:        []int32{usageError},
			},
		},
		{
			Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
				{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
			},
		},
	}}
}
