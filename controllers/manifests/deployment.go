package manifests

import (
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-dev/weir/api/v1alpha1"
)

const (
	// workerContainer is the name that a template's container must have to be
	// merged over ours.
	workerContainer = "worker"
	// annotationBrokerVersion restarts workers when the broker's settings change.
	annotationBrokerVersion = "weir.dev/broker-version"

	metricsPort           = 8080
	defaultGraceSeconds   = 30
	untilKilled           = 5 * time.Second
	maxUnavailable        = 0
	maxSurge              = 1
	livenessPeriodSeconds = 10
	// settleSeconds is how long a worker without a probe must run to count: one
	// that ends at once would be ready between its restarts.
	settleSeconds = 10
)

// Deployment is the task's workers. Its error is a TemplateError when the
// task's template cannot be merged.
func Deployment(task *v1alpha1.PeriodicTask, config Config, replicas int32, brokerVersion string) (*appsv1.Deployment, error) {
	template, err := workerTemplate(task, config, brokerVersion)
	if err != nil {
		return nil, err
	}
	minReady := int32(0)
	if worker := workerOf(template); worker != nil && worker.ReadinessProbe == nil {
		minReady = settleSeconds
	}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: meta(task, appWorker),
		Spec: appsv1.DeploymentSpec{
			Replicas:        new(replicas),
			MinReadySeconds: minReady,
			Selector:        &metav1.LabelSelector{MatchLabels: labels(task, appWorker)},
			// A rollout takes no worker away before another is ready.
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxUnavailable: new(intstr.FromInt32(maxUnavailable)),
					MaxSurge:       new(intstr.FromInt32(maxSurge)),
				},
			},
			Template: *template,
		},
	}, nil
}

// workerTemplate is our pod template with the task's merged over it.
func workerTemplate(task *v1alpha1.PeriodicTask, config Config, brokerVersion string) (*corev1.PodTemplateSpec, error) {
	over, err := decodeTemplate(task.Spec.Worker.Template)
	if err != nil {
		return nil, err
	}
	grace := int64(defaultGraceSeconds)
	if over.Spec.TerminationGracePeriodSeconds != nil {
		grace = *over.Spec.TerminationGracePeriodSeconds
	}
	theirs := workerOf(over)
	foreign := theirs != nil && len(theirs.Command) > 0

	container := corev1.Container{
		Name:            workerContainer,
		Image:           config.Image,
		ImagePullPolicy: config.ImagePullPolicy,
		Command:         []string{"/worker", "run"},
		Env:             append(brokerEnv(), fieldEnv("POD_NAME", "metadata.name"), fieldEnv("POD_NAMESPACE", "metadata.namespace")),
		Resources:       resources("50m", "64Mi", "256Mi"),
	}
	if theirs != nil && theirs.Image != "" {
		container.ImagePullPolicy = "" // ours was for our image
	}
	if !foreign {
		container.Args = []string{
			"--queues=" + task.Spec.Task.Queue,
			"--concurrency=" + strconv.Itoa(int(task.Spec.Worker.Concurrency)),
			// Before the kubelet kills it, a worker gives back what it has not finished.
			"--grace=" + max(time.Second, time.Duration(grace)*time.Second-untilKilled).String(),
		}
		container.Ports = []corev1.ContainerPort{{Name: "metrics", ContainerPort: metricsPort, Protocol: corev1.ProtocolTCP}}
		container.LivenessProbe = probe("/healthz", livenessPeriodSeconds)
		container.ReadinessProbe = probe("/readyz", 2)
	}
	ours := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      labels(task, appWorker),
			Annotations: map[string]string{"kubectl.kubernetes.io/default-container": workerContainer},
		},
		Spec: podSpec(container),
	}
	ours.Spec.TerminationGracePeriodSeconds = new(grace)
	if foreign {
		addScratch(&ours.Spec)
	}

	merged, err := mergeTemplate(ours, task.Spec.Worker.Template)
	if err != nil {
		return nil, err
	}
	worker := workerOf(merged)
	if worker == nil {
		return nil, &TemplateError{fmt.Sprintf("it leaves no container %q", workerContainer)}
	}
	if !foreign {
		addMemoryTarget(worker)
	}
	config.Traces.addTo(worker)
	// What selects the pods and restarts them is not the template's to say.
	for label, value := range labels(task, appWorker) {
		merged.Labels[label] = value
	}
	merged.Annotations[annotationBrokerVersion] = brokerVersion
	return merged, nil
}

func workerOf(template *corev1.PodTemplateSpec) *corev1.Container {
	for i := range template.Spec.Containers {
		if template.Spec.Containers[i].Name == workerContainer {
			return &template.Spec.Containers[i]
		}
	}
	return nil
}

func probe(path string, periodSeconds int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("metrics")}},
		PeriodSeconds:    periodSeconds,
		TimeoutSeconds:   3,
		FailureThreshold: 3,
	}
}
