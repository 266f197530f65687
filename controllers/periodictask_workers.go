package controllers

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// countWorkers counts ready and wanted workers, when they are the task's own.
func (o *taskObserved) countWorkers() (ready, wanted int32, ours bool) {
	if o.deployment == nil || o.task.Spec.Worker == nil {
		return 0, 0, false
	}
	wanted = 1
	if o.deployment.Spec.Replicas != nil {
		wanted = *o.deployment.Spec.Replicas
	}
	return o.deployment.Status.AvailableReplicas, wanted, true
}

// workersAvailable says the first thing that keeps workers from working.
func (o *taskObserved) workersAvailable() metav1.Condition {
	no := func(reason, message string) metav1.Condition {
		return metav1.Condition{Type: v1alpha1.ConditionWorkersAvailable, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	}
	yes := func(reason, message string) metav1.Condition {
		return metav1.Condition{Type: v1alpha1.ConditionWorkersAvailable, Status: metav1.ConditionTrue, Reason: reason, Message: message}
	}
	ready, wanted, ours := o.countWorkers()
	queue := o.task.Spec.Task.Queue
	switch {
	case !ours && !o.verdict.Accepted:
		return no(v1alpha1.ReasonNotAccepted, "No worker runs, because the task is not accepted.")
	case o.task.Spec.Worker == nil:
		return yes(v1alpha1.ReasonExternal, fmt.Sprintf("Somebody else's workers take from queue %s.", queue))
	case !ours:
		return no(v1alpha1.ReasonWorkersStarting, "The workers are being created.")
	case wanted == 0 && o.task.Suspended():
		return no(v1alpha1.ReasonSuspended, "The task is suspended and its queue is worked off: no worker is left. Set spec.suspend to false to go on.")
	case wanted == 0 && o.replicas() > 0: // resumed, and the Deployment has not heard
		return no(v1alpha1.ReasonWorkersStarting, "The workers are being created.")
	case wanted == 0:
		return no(v1alpha1.ReasonWorkersUnavailable, fmt.Sprintf("spec.worker.replicas is 0: nothing takes from queue %s.", queue))
	}
	sum := fmt.Sprintf("%d of %d workers are ready.", min(ready, wanted), wanted)
	if trouble := o.workerTrouble(); trouble != "" {
		return no(v1alpha1.ReasonWorkersUnavailable, sum+" "+trouble)
	}
	if ready < wanted {
		return no(v1alpha1.ReasonWorkersStarting, sum)
	}
	return yes(v1alpha1.ReasonWorkersAvailable, sum)
}

// workerTrouble says why a worker cannot start; empty: nothing is known.
func (o *taskObserved) workerTrouble() string {
	for _, condition := range o.deployment.Status.Conditions {
		if condition.Type == appsv1.DeploymentReplicaFailure && condition.Status == corev1.ConditionTrue {
			return "Pods are refused: " + clip(condition.Message)
		}
	}
	for _, pod := range o.workers {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if trouble := podTrouble(pod); trouble != "" {
			return fmt.Sprintf("Pod %s: %s", pod.Name, trouble)
		}
	}
	return ""
}

// podTrouble says why a pod does not become ready, in words that stay the same
// while it tries again and again.
func podTrouble(pod *corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Reason == corev1.PodReasonUnschedulable {
			return "Unschedulable: " + clip(condition.Message)
		}
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if trouble := containerTrouble(pod.Name, &statuses[i]); trouble != "" {
				return trouble
			}
		}
	}
	return ""
}

func containerTrouble(pod string, status *corev1.ContainerStatus) string {
	waiting := ""
	if status.State.Waiting != nil {
		waiting = status.State.Waiting.Reason
	}
	switch waiting {
	case "ErrImagePull", "ImagePullBackOff":
		return fmt.Sprintf("ImagePullBackOff: image %q of container %s cannot be pulled. Check its name, and the right to pull it.", status.Image, status.Name)
	case "", "ContainerCreating", "PodInitializing", "CrashLoopBackOff":
	default: // ErrImageNeverPull, InvalidImageName, CreateContainerConfigError …
		return fmt.Sprintf("%s: container %s: %s", waiting, status.Name, clip(status.State.Waiting.Message))
	}
	// Between two attempts a container runs, or waits in CrashLoopBackOff.
	ended := status.LastTerminationState.Terminated
	if ended == nil || status.Ready || status.RestartCount == 0 {
		return ""
	}
	return fmt.Sprintf("CrashLoopBackOff: container %s ends again and again, last with exit code %d (%s). See kubectl logs %s -c %s --previous.",
		status.Name, ended.ExitCode, ended.Reason, pod, status.Name)
}
