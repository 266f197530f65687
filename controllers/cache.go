package controllers

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
)

// CacheOptions keep the memory of a large cluster's pods small: a pod's few
// fields that decisions need, nobody's managedFields, and of CronJobs, Jobs and
// Deployments only those of PeriodicTasks.
func CacheOptions() cache.Options {
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:        {Transform: stripPod},
			&batchv1.CronJob{}:   {Label: ofTasks()},
			&batchv1.Job{}:       {Label: ofTasks(), Transform: stripJob},
			&appsv1.Deployment{}: {Label: ofTasks()},
		},
	}
}

// ofTasks selects what belongs to PeriodicTasks.
func ofTasks() labels.Selector {
	exists, err := labels.NewRequirement(v1alpha1.LabelPeriodicTask, selection.Exists, nil)
	if err != nil {
		panic(err) // the label is a constant
	}
	return labels.NewSelector().Add(*exists)
}

// sidecarOnly is of all pods in the cache that have a sidecar: a Container is a
// kilobyte, whatever is in it. What is in the cache is never written to.
var sidecarOnly = []corev1.Container{{Name: v1alpha1.SidecarContainer}}

// stripPod keeps what the controllers and the link read of a pod.
func stripPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil // the last known state of a missed deletion
	}
	stripped := &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         pod.Namespace,
			Name:              pod.Name,
			UID:               pod.UID,
			ResourceVersion:   pod.ResourceVersion,
			Labels:            pod.Labels,
			OwnerReferences:   pod.OwnerReferences,
			CreationTimestamp: pod.CreationTimestamp,
			DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{
			HostNetwork:        pod.Spec.HostNetwork,
			ServiceAccountName: pod.Spec.ServiceAccountName,
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP},
	}
	if link.HasSidecar(pod) {
		stripped.Spec.InitContainers = sidecarOnly
	}
	if pod.Labels[v1alpha1.LabelPeriodicTask] != "" {
		stripped.Status.Conditions = pod.Status.Conditions
		stripped.Status.InitContainerStatuses = pod.Status.InitContainerStatuses
		stripped.Status.ContainerStatuses = pod.Status.ContainerStatuses
	}
	return stripped, nil
}

// stripJob keeps what the controller reads of a Job: whether it has ended.
func stripJob(object any) (any, error) {
	job, ok := object.(*batchv1.Job)
	if !ok {
		return object, nil
	}
	return &batchv1.Job{
		TypeMeta: job.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
			Labels: job.Labels, OwnerReferences: job.OwnerReferences, DeletionTimestamp: job.DeletionTimestamp,
		},
		Status: batchv1.JobStatus{Conditions: job.Status.Conditions},
	}, nil
}
