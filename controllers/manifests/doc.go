// Package manifests makes the objects that a PeriodicTask consists of in a
// namespace: a CronJob that enqueues, a Deployment that works the queue, and
// the Secret with the broker's URL that both read. Everything here is pure.
package manifests

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Values of the label app.kubernetes.io/name.
const (
	appEnqueue = "weir-enqueue"
	appWorker  = "weir-worker"
)

const (
	labelApp      = "app.kubernetes.io/name"
	labelInstance = "app.kubernetes.io/instance"
)

// uid is the user of the worker image.
const uid = 65532

// Config is what the operator's flags say about workers.
type Config struct {
	// Image of the worker, which also enqueues.
	Image string
	// ImagePullPolicy of it; empty: Kubernetes' default for the image's tag.
	ImagePullPolicy corev1.PullPolicy
	// Traces of tasks, from enqueue to result.
	Traces Traces
}

// meta names an object as the task, whose own it is.
func meta(task *v1alpha1.PeriodicTask, app string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: task.Namespace,
		Name:      task.Name,
		Labels:    labels(task, app),
		OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(task, v1alpha1.GroupVersion.WithKind("PeriodicTask")),
		},
	}
}

func labels(task *v1alpha1.PeriodicTask, app string) map[string]string {
	return map[string]string{labelApp: app, labelInstance: task.Name, v1alpha1.LabelPeriodicTask: task.Name}
}

// IsWorker says whether a pod is a worker of a PeriodicTask.
func IsWorker(pod *corev1.Pod) bool { return pod.Labels[labelApp] == appWorker }
