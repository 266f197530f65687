package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/tasks"
)

const (
	// seldom is a schedule that does not come due during a test.
	seldom      = "0 0 29 2 *"
	everyMinute = "* * * * *"
	// workerGraceSeconds of the suite's workers: they end soon.
	workerGraceSeconds = 7
)

// taskBuilder makes PeriodicTasks that read like sentences:
// makeTask("nap").calling("debug_task", …).workedBy(2, 8).
type taskBuilder struct {
	v1alpha1.PeriodicTask
	template corev1.PodTemplateSpec
}

// makeTask calls debug_task, when runNow says so, on a queue of its own. Nobody
// works it.
func makeTask(name string) *taskBuilder {
	b := &taskBuilder{PeriodicTask: v1alpha1.PeriodicTask{ObjectMeta: metav1.ObjectMeta{Name: name}}}
	return b.every(seldom).calling(tasks.Debug, nil)
}

func (b *taskBuilder) every(schedule string) *taskBuilder {
	b.Spec.Schedule = schedule
	return b
}

func (b *taskBuilder) in(timeZone string) *taskBuilder {
	b.Spec.TimeZone = timeZone
	return b
}

func (b *taskBuilder) calling(task string, kwargs map[string]any) *taskBuilder {
	b.Spec.Task.Name, b.Spec.Task.Kwargs = task, nil
	if kwargs != nil {
		text, _ := json.Marshal(kwargs)
		b.Spec.Task.Kwargs = &runtime.RawExtension{Raw: text}
	}
	return b
}

// whileUnfinished says what becomes of a run that comes upon an earlier one.
func (b *taskBuilder) whileUnfinished(policy v1alpha1.ConcurrencyPolicy) *taskBuilder {
	b.Spec.ConcurrencyPolicy = policy
	return b
}

func (b *taskBuilder) retried(times int32, backoff time.Duration) *taskBuilder {
	b.Spec.Task.Retry = &v1alpha1.RetrySpec{
		MaxRetries: &times, InitialBackoff: metav1.Duration{Duration: backoff}, MaxBackoff: metav1.Duration{Duration: backoff},
	}
	return b
}

func (b *taskBuilder) workedBy(replicas, concurrency int32) *taskBuilder {
	b.Spec.Worker = &v1alpha1.WorkerSpec{Replicas: &replicas, Concurrency: concurrency}
	b.template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](workerGraceSeconds)
	return b
}

// with changes the pods of the workers; the container is theirs.
func (b *taskBuilder) with(change func(pod *corev1.PodTemplateSpec, container *corev1.Container)) *taskBuilder {
	if len(b.template.Spec.Containers) == 0 {
		b.template.Spec.Containers = []corev1.Container{{Name: "worker"}}
	}
	change(&b.template, &b.template.Spec.Containers[0])
	return b
}

// withImage of the workers.
func (b *taskBuilder) withImage(image string) *taskBuilder {
	return b.with(func(_ *corev1.PodTemplateSpec, c *corev1.Container) { c.Image = image })
}

// create makes the task; its queue is called like the namespace.
func (b *taskBuilder) create(namespace string) *v1alpha1.PeriodicTask {
	GinkgoHelper()
	task := b.DeepCopy()
	task.Namespace = namespace
	task.Spec.Task.Queue = namespace
	if task.Spec.Worker != nil {
		task.Spec.Worker.Template = b.written()
	}
	Expect(cluster.Create(ctx, task)).To(Succeed())
	return task
}

// written is the template as people write it: without empty fields.
func (b *taskBuilder) written() *runtime.RawExtension {
	GinkgoHelper()
	text, err := json.Marshal(b.template)
	Expect(err).NotTo(HaveOccurred())
	var content any
	Expect(json.Unmarshal(text, &content)).To(Succeed())
	text, err = json.Marshal(withoutNulls(content))
	Expect(err).NotTo(HaveOccurred())
	return &runtime.RawExtension{Raw: text}
}

// withoutNulls leaves out what a strategic merge would delete, as the list of
// containers of a template that names none.
func withoutNulls(value any) any {
	object, is := value.(map[string]any)
	if !is {
		return value
	}
	for name, field := range object {
		if object[name] = withoutNulls(field); field == nil {
			delete(object, name)
		}
	}
	return object
}

// runNow starts a run of the task as one does who does not want to wait for the
// schedule, and returns the id of its message.
func runNow(task *v1alpha1.PeriodicTask, job string) (id string) {
	GinkgoHelper()
	Eventually(func(g Gomega) { // the CronJob may not be there yet, or that of before an edit
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(task), task)).To(Succeed())
		g.Expect(task.Status.ObservedGeneration).To(Equal(task.Generation))
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(task), &batchv1.CronJob{})).To(Succeed())
	}).Should(Succeed())
	runKubectl("-n", task.Namespace, "create", "job", "--from=cronjob/"+task.Name, job)
	created := &batchv1.Job{}
	Expect(cluster.Get(ctx, client.ObjectKey{Namespace: task.Namespace, Name: job}, created)).To(Succeed())
	return celery.OccurrenceID(string(task.UID), job, string(created.UID))
}

// edit changes the newest of a task.
func edit(task *v1alpha1.PeriodicTask, change func(*v1alpha1.PeriodicTaskSpec)) {
	GinkgoHelper()
	Expect(cluster.Get(ctx, client.ObjectKeyFromObject(task), task)).To(Succeed())
	patch := client.MergeFrom(task.DeepCopy())
	change(&task.Spec)
	Expect(cluster.Patch(ctx, task, patch)).To(Succeed())
}

// waitTask waits until a task's status is of its newest edit and as said.
func waitTask(task *v1alpha1.PeriodicTask, is func(g Gomega, status *v1alpha1.PeriodicTaskStatus)) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(task), task)).To(Succeed())
		g.Expect(task.Status.ObservedGeneration).To(Equal(task.Generation))
		is(g, &task.Status)
	}).Should(Succeed())
}

// waitWorkers waits until the task is ready with so many workers.
func waitWorkers(task *v1alpha1.PeriodicTask, replicas int32) {
	GinkgoHelper()
	waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
		g.Expect(status.Workers).To(Equal(fmt.Sprintf("%d/%d", replicas, replicas)))
		g.Expect(status.ReadyWorkers).To(HaveValue(Equal(replicas)))
		g.Expect(meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady)).To(BeTrue(), "%+v", status.Conditions)
	})
}

// waitRun waits until a run is the last of the task, and has a state.
func waitRun(task *v1alpha1.PeriodicTask, id string, state celery.State) {
	GinkgoHelper()
	waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
		g.Expect(status.LastTask).NotTo(BeNil())
		g.Expect(status.LastTask.ID).To(Equal(id))
		g.Expect(status.LastTask.State).To(Equal(string(state)), "%+v", status.LastTask)
	})
}

// haveCondition is a condition's status and reason.
func haveCondition(conditionType string, status metav1.ConditionStatus, reason string) func(Gomega, *v1alpha1.PeriodicTaskStatus) {
	return func(g Gomega, s *v1alpha1.PeriodicTaskStatus) {
		c := meta.FindStatusCondition(s.Conditions, conditionType)
		g.Expect(c).NotTo(BeNil())
		g.Expect(c.Status).To(Equal(status), c.Message)
		g.Expect(c.Reason).To(Equal(reason), c.Message)
	}
}

// waitEvent waits for an event about the task, and returns its note.
func waitEvent(task *v1alpha1.PeriodicTask, reason string) (note string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		events := &eventsv1.EventList{}
		g.Expect(cluster.List(ctx, events, client.InNamespace(task.Namespace))).To(Succeed())
		var reasons []string
		for i := range events.Items {
			if event := &events.Items[i]; event.Regarding.UID == task.UID {
				reasons = append(reasons, event.Reason)
				if event.Reason == reason {
					note = event.Note
				}
			}
		}
		g.Expect(reasons).To(ContainElement(reason))
	}).Should(Succeed())
	return note
}

// waitJob waits until a Job has succeeded.
func waitJob(namespace, name string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		job := &batchv1.Job{}
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, job)).To(Succeed())
		g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1), "%+v", job.Status)
	}).Should(Succeed())
}

// podsOf are the pods of a task: its workers', and those that enqueued.
func podsOf(task *v1alpha1.PeriodicTask) (workers, enqueuers []corev1.Pod) {
	GinkgoHelper()
	pods := &corev1.PodList{}
	Expect(cluster.List(ctx, pods, client.InNamespace(task.Namespace), client.MatchingLabels{v1alpha1.LabelPeriodicTask: task.Name})).To(Succeed())
	for i := range pods.Items {
		switch pods.Items[i].Labels["app.kubernetes.io/name"] {
		case "weir-worker":
			workers = append(workers, pods.Items[i])
		case "weir-enqueue":
			enqueuers = append(enqueuers, pods.Items[i])
		}
	}
	return workers, enqueuers
}

// watchTask records what a task's status said, in order, until it is asked.
func watchTask(task *v1alpha1.PeriodicTask) func() []v1alpha1.PeriodicTaskStatus {
	GinkgoHelper()
	restConfig, err := config.GetConfig()
	Expect(err).NotTo(HaveOccurred())
	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	watcher, err := client.NewWithWatch(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	watching, cancel := context.WithCancel(ctx)
	DeferCleanup(cancel)
	stream, err := watcher.Watch(watching, &v1alpha1.PeriodicTaskList{}, client.InNamespace(task.Namespace))
	Expect(err).NotTo(HaveOccurred())

	var seen []v1alpha1.PeriodicTaskStatus
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range stream.ResultChan() {
			if changed, is := event.Object.(*v1alpha1.PeriodicTask); is && changed.Name == task.Name {
				seen = append(seen, changed.Status)
			}
		}
	}()
	return func() []v1alpha1.PeriodicTaskStatus {
		cancel()
		<-done
		return seen
	}
}
