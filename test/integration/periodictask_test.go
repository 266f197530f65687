package integration

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/worker/celery"
)

var _ = Describe("the operator, of PeriodicTasks,", Ordered, func() {
	var operator *taskOperator
	BeforeAll(func() { operator = startTaskOperator(GinkgoTB()) })

	secretOf := func(namespace string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: manifests.SecretName}}
	}
	brokerVersion := func(d *appsv1.Deployment) string { return d.Spec.Template.Annotations["weir.dev/broker-version"] }
	replicas := func(d *appsv1.Deployment) int32 { return *d.Spec.Replicas }

	It("makes a CronJob, workers and the broker's Secret, and follows edits", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "hourly", `{timeZone: Asia/Kolkata, startingDeadlineSeconds: 60, worker: {replicas: 2, template: {spec: {nodeSelector: {disk: fast}, containers: [{name: worker, env: [{name: A, value: b}]}]}}}}`)
		cronJob, deployment, secret := cronJobOf(task), deploymentOf(task), secretOf(namespace)
		Eventually(exists(cronJob)).Should(BeTrue())
		Expect(exists(deployment)()).To(BeTrue())
		Expect(exists(secret)()).To(BeTrue())
		for _, object := range []client.Object{cronJob, deployment} {
			Expect(metav1.IsControlledBy(object, task)).To(BeTrue())
		}
		Expect(*cronJob.Spec.TimeZone).To(Equal("Asia/Kolkata"))
		Expect(cronJob.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args).To(ContainElements("--task=debug_task", "--uid="+string(task.UID), "--periodic-task="+namespace+"/hourly"))
		Expect(deployment.Spec.Template.Spec.NodeSelector).To(Equal(map[string]string{"disk": "fast"}))
		Expect(deployment.Spec.Template.Spec.Containers[0].Env).To(ContainElement(corev1.EnvVar{Name: "A", Value: "b"}))
		Expect(string(secret.Data["url"])).To(Equal(operator.redis.URL()))
		Expect(secret.OwnerReferences).To(HaveLen(1))
		Eventually(condition(task, "Accepted")).Should(Equal("True Accepted"))

		By("editing: what is written no more goes away, what others wrote stays")
		Expect(k8sClient.Patch(ctx, deployment, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"theirs":"kept"}}}`)))).To(Succeed())
		editTask(task, `{schedule: "*/5 * * * *", timeZone: null, startingDeadlineSeconds: null, worker: {replicas: 4, template: null}}`)
		Eventually(now(deployment, replicas)).Should(BeEquivalentTo(4))
		Expect(deployment.Spec.Template.Spec.NodeSelector).To(BeEmpty())
		Expect(deployment.Annotations).To(HaveKeyWithValue("theirs", "kept"))
		Eventually(now(cronJob, func(c *batchv1.CronJob) string { return c.Spec.Schedule })).Should(Equal("*/5 * * * *"))
		Expect(cronJob.Spec.TimeZone).To(BeNil())
		Expect(cronJob.Spec.StartingDeadlineSeconds).To(BeNil())

		By("somebody's hand on the Deployment")
		Expect(k8sClient.Patch(ctx, deployment, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"replicas":9}}`)))).To(Succeed())
		Eventually(now(deployment, replicas)).Should(BeEquivalentTo(4))

		By("giving the queue to somebody else's workers")
		editTask(task, `{worker: null}`)
		Eventually(exists(deployment)).Should(BeFalse())
		Eventually(condition(task, "WorkersAvailable")).Should(Equal("True External"))
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))
		Expect(task.Status.Workers).To(BeEmpty())
	})

	It("restarts workers when the broker is another, and not when a task comes or goes", func() {
		namespace := newNamespace(nil)
		first := createTask(namespace, "first", `{worker: {}}`)
		deployment, secret := deploymentOf(first), secretOf(namespace)
		Eventually(exists(deployment)).Should(BeTrue())
		version := brokerVersion(deployment)
		Expect(version).NotTo(BeEmpty())
		second := createTask(namespace, "second", `{worker: {}}`)
		Eventually(now(deploymentOf(second), brokerVersion)).Should(Equal(version))
		owners := func(s *corev1.Secret) int { return len(s.OwnerReferences) }
		Eventually(now(secret, owners)).Should(Equal(2))
		Consistently(now(deployment, brokerVersion)).Should(Equal(version))

		operator.useBroker(operator.redis.URL() + "/1")
		url := now(secret, func(s *corev1.Secret) string { return string(s.Data["url"]) })
		operator.look(first)
		Eventually(url).Should(HaveSuffix("/1"))
		Eventually(now(deployment, brokerVersion)).ShouldNot(Equal(version))
		operator.useBroker(operator.redis.URL())
		operator.look(first)
		Eventually(url).Should(Equal(operator.redis.URL()))
	})

	It("leaves the objects of others alone", func() {
		namespace := newNamespace(nil)
		theirs := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "taken"}}
		theirs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "theirs"}}
		theirs.Spec.Template.Labels = theirs.Spec.Selector.MatchLabels
		theirs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: "theirs"}}
		Expect(k8sClient.Create(ctx, theirs)).To(Succeed())
		version := theirs.ResourceVersion
		task := createTask(namespace, "taken", `{worker: {}}`)
		Eventually(condition(task, "Ready")).Should(Equal("False NameConflict"))
		Expect(message(task, "Accepted")).To(HavePrefix(`A Deployment named "taken" exists that does not belong to this task`))
		Expect(condition(task, "WorkersAvailable")()).To(Equal("False NotAccepted"))
		Expect(exists(cronJobOf(task))()).To(BeFalse())
		Expect(exists(theirs)()).To(BeTrue())
		Expect(theirs.ResourceVersion).To(Equal(version))

		Expect(k8sClient.Delete(ctx, task)).To(Succeed())
		Eventually(exists(task)).Should(BeFalse())
		Expect(exists(theirs)()).To(BeTrue())
	})

	It("says what only it can judge, and lets what was accepted go on", func() {
		namespace := newNamespace(nil)
		for _, refusal := range []struct{ name, change, reason, sentence string }{
			{"minute-99", `{schedule: "99 * * * *"}`, "InvalidSchedule", "above maximum"},
			{"february-30", `{schedule: "0 0 30 2 *"}`, "InvalidSchedule", "names no date"},
			{"atlantis", `{timeZone: Ocean/Atlantis}`, "InvalidTimeZone", "Ocean/Atlantis"},
			{"large", `{task: {kwargs: {text: ` + strings.Repeat("x", 65<<10) + `}}}`, "InvalidArguments", "at most 65536"},
			{"unknown-field", `{worker: {template: {spec: {containers: [{name: worker, imag: x}]}}}}`, "InvalidTemplate", `unknown field "spec.containers[0].imag"`},
			{"mistyped-field", `{worker: {template: {spec: {nodeSelector: [a]}}}}`, "InvalidTemplate", "nodeSelector"},
			{"refused", `{worker: {template: {spec: {containers: [{name: worker, resources: {requests: {memory: 1Gi}}}]}}}}`, "InvalidTemplate", "must be less than or equal to memory limit"},
		} {
			task := createTask(namespace, refusal.name, refusal.change)
			Eventually(condition(task, "Accepted")).Should(Equal("False "+refusal.reason), refusal.name)
			Expect(message(task, "Ready")).To(ContainSubstring(refusal.sentence), refusal.name)
			Expect(exists(cronJobOf(task))()).To(BeFalse(), refusal.name)
			Eventually(eventsAbout(task)).Should(ContainElement("Warning "+refusal.reason), refusal.name)
		}

		good := createTask(namespace, "good", `{}`)
		Eventually(condition(good, "Accepted")).Should(Equal("True Accepted"))
		editTask(good, `{schedule: "99 * * * *"}`)
		Eventually(condition(good, "Accepted")).Should(Equal("False InvalidSchedule"))
		Expect(message(good, "Accepted")).To(HaveSuffix("Until then what was accepted before goes on."))
		cronJob := cronJobOf(good)
		Expect(exists(cronJob)()).To(BeTrue())
		Expect(cronJob.Spec.Schedule).To(Equal("0 * * * *"))
	})

	It("shows what becomes of runs and of workers", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "runs", `{worker: {replicas: 2}}`)
		Eventually(condition(task, "WorkersAvailable")).Should(Equal("False WorkersStarting"))
		Eventually(now(task, func(t *v1alpha1.PeriodicTask) bool {
			next := ptr.Deref(t.Status.NextScheduleTime, metav1.Time{}).Time
			until := next.Sub(operator.clock.Now())
			return next.Minute() == 0 && until > -time.Minute && until <= time.Hour
		})).Should(BeTrue(), "the next full hour")
		playWorkers(task, 1)
		Eventually(now(task, func(t *v1alpha1.PeriodicTask) string { return t.Status.Workers })).Should(Equal("1/2"))
		pod := playWorker(task, "runs-1", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "worker", Image: "no-such-image", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off"}},
		}}})
		Eventually(condition(task, "Ready")).Should(Equal("False WorkersUnavailable"))
		Expect(message(task, "Ready")).To(Equal(`1 of 2 workers are ready. Pod runs-1: ImagePullBackOff: image "no-such-image" of container worker cannot be pulled. Check its name, and the right to pull it.`))
		deletePod(pod)
		playWorkers(task, 2)
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))
		Expect(message(task, "Ready")).To(Equal("The schedule is in force. 2 of 2 workers are ready."))

		By("a run that waits, fails, and one that ends well")
		state := now(task, func(t *v1alpha1.PeriodicTask) string {
			if t.Status.LastTask == nil {
				return ""
			}
			return t.Status.LastTask.State
		})
		due := time.Now().Truncate(time.Hour)
		job := playJob(task, "runs-1", due)
		id, _ := operator.enqueue(task, "runs-1")
		endJob(job, false)
		Eventually(state).Should(Equal("PENDING"))
		Expect(task.Status.LastTask.ID).To(Equal(id))
		Expect(*task.Status.QueueDepth).To(BeEquivalentTo(1))
		Expect(task.Status.LastScheduleTime.Time).To(BeTemporally("==", due))
		operator.end(task, id, "FAILURE", `{"exc_type":"ValueError","exc_message":["no such user"],"exc_module":"builtins"}`)
		Eventually(state).Should(Equal("FAILURE"))
		Expect(task.Status.LastTask.Error).To(ContainSubstring("no such user"))
		Expect(task.Status.LastTask.FinishedAt).NotTo(BeNil())
		Expect(task.Status.LastSuccessfulTime).To(BeNil())
		Expect(condition(task, "Ready")()).To(Equal("True Ready"), "a run that fails is the task's trouble, not the schedule's")
		Eventually(eventsAbout(task)).Should(ContainElement("Warning RunFailed"))

		id, _ = operator.enqueue(task, "runs-2")
		operator.end(task, id, "SUCCESS", `42`)
		operator.look(task)
		Eventually(state).Should(Equal("SUCCESS"))
		Expect(task.Status.LastSuccessfulTime.UTC()).To(Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
		Eventually(now(task, func(t *v1alpha1.PeriodicTask) int64 { return *t.Status.QueueDepth })).Should(BeZero())

		By("nothing new: nothing is written")
		version := task.ResourceVersion
		Consistently(now(task, func(t *v1alpha1.PeriodicTask) string { return t.ResourceVersion })).WithTimeout(3 * time.Second).Should(Equal(version))
	})

	It("keeps a suspended task's workers until its queue is worked off", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "pause", `{worker: {replicas: 2}}`)
		deployment, cronJob := deploymentOf(task), cronJobOf(task)
		Eventually(now(cronJob, func(c *batchv1.CronJob) bool { return !*c.Spec.Suspend })).Should(BeTrue())
		id, _ := operator.enqueue(task, "pause-1")
		editTask(task, `{suspend: true}`)
		Eventually(now(cronJob, func(c *batchv1.CronJob) bool { return *c.Spec.Suspend })).Should(BeTrue())
		Consistently(now(deployment, replicas)).WithTimeout(3 * time.Second).Should(BeEquivalentTo(2))
		operator.end(task, id, "SUCCESS", `null`)
		Eventually(now(deployment, replicas)).Should(BeZero())
		Eventually(condition(task, "Ready")).Should(Equal("False Suspended"))
		Expect(task.Status.NextScheduleTime).To(BeNil())
		Expect(task.Status.Workers).To(Equal("0/0"))

		editTask(task, `{suspend: false}`)
		Eventually(now(deployment, replicas)).Should(BeEquivalentTo(2))
		Eventually(now(task, func(t *v1alpha1.PeriodicTask) bool { return t.Status.NextScheduleTime != nil })).Should(BeTrue())
	})

	It("says that the broker is away, since when, and that it is back", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "outage", `{}`)
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))
		id, _ := operator.enqueue(task, "outage-1")
		operator.end(task, id, "SUCCESS", `null`)
		operator.look(task)
		Eventually(now(task, func(t *v1alpha1.PeriodicTask) bool { return t.Status.LastTask != nil })).Should(BeTrue())
		operator.redis.Kill()
		operator.look(task)
		Eventually(condition(task, "Ready")).Should(Equal("False BrokerUnavailable"))
		Expect(message(task, "Ready")).To(And(ContainSubstring("check Redis"), Not(ContainSubstring("127.0.0.1"))))
		Expect(condition(task, "Accepted")()).To(Equal("True Accepted"))
		Expect(task.Status.LastTask.State).To(Equal("SUCCESS"), "what is known stays")
		version := task.ResourceVersion
		Consistently(now(task, func(t *v1alpha1.PeriodicTask) string { return t.ResourceVersion })).WithTimeout(5 * time.Second).Should(Equal(version))
		operator.redis.Restart()
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))

		By("an operator without a broker")
		operator.useBroker("")
		operator.look(task)
		Eventually(condition(task, "Ready")).Should(Equal("False NoBroker"))
		Expect(message(task, "Ready")).To(ContainSubstring("weir-broker"))
		operator.useBroker(operator.redis.URL())
		operator.look(task)
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))
	})

	It("takes a deleted task's objects and messages away, and no others", func() {
		namespace := newNamespace(nil)
		task, other := createTask(namespace, "gone", `{worker: {}}`), createTask(namespace, "other", `{}`)
		Eventually(condition(task, "Accepted")).Should(Equal("True Accepted"))
		Eventually(condition(other, "Accepted")).Should(Equal("True Accepted"))
		operator.enqueue(task, "gone-1")
		operator.enqueue(other, "other-1")
		worker := playWorker(task, "gone-worker", corev1.PodStatus{Phase: corev1.PodRunning})
		depth := func() int64 { return operator.client.LLen(ctx, namespace).Val() }
		Expect(depth()).To(BeEquivalentTo(2))

		Expect(k8sClient.Delete(ctx, task)).To(Succeed())
		Eventually(exists(cronJobOf(task))).Should(BeFalse())
		Eventually(exists(deploymentOf(task))).Should(BeFalse())
		Consistently(exists(task)).Should(BeTrue(), "a worker may still give back a message")
		Expect(depth()).To(BeEquivalentTo(2))
		deletePod(worker)
		Eventually(exists(task)).Should(BeFalse())
		Expect(depth()).To(BeEquivalentTo(1))
		operator.look(other)
		Eventually(now(secretOf(namespace), func(s *corev1.Secret) int { return len(s.OwnerReferences) })).Should(Equal(1))
	})

	It("does not hold up a namespace that goes", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "last", `{worker: {}}`)
		Eventually(condition(task, "Accepted")).Should(Equal("True Accepted"))
		Expect(k8sClient.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})).To(Succeed())
		Expect(k8sClient.Delete(ctx, cronJobOf(task))).To(Succeed())
		forbidden := k8sClient.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "late"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}}})
		Expect(apierrors.HasStatusCause(forbidden, corev1.NamespaceTerminatingCause)).To(BeTrue())
		Expect(k8sClient.Delete(ctx, task)).To(Succeed())
		Eventually(exists(task)).Should(BeFalse())
	})

	// From here on the clock goes forward.
	It("lets a task go that it cannot purge", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "left", `{}`)
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))
		operator.redis.Kill()
		Expect(k8sClient.Delete(ctx, task)).To(Succeed())
		Consistently(exists(task)).WithTimeout(3 * time.Second).Should(BeTrue())
		operator.clock.advance(3 * time.Minute)
		Eventually(exists(task)).Should(BeFalse())
		Eventually(eventsAbout(task)).Should(ContainElement("Warning MessagesLeft"))
		operator.redis.Restart()
		operator.clock.advance(3 * time.Second)
		Eventually(condition(createTask(namespace, "witness", `{}`), "Ready")).Should(Equal("True Ready"))
	})

	It("tells of a Job that failed, a run left out, a run replaced and a time that was missed", func() {
		namespace := newNamespace(nil)
		task := createTask(namespace, "news", `{concurrencyPolicy: Forbid}`)
		Eventually(condition(task, "Ready")).Should(Equal("True Ready"))
		endJob(playJob(task, "news-1", time.Now().Add(-time.Hour).Truncate(time.Hour)), true)
		Eventually(eventsAbout(task)).Should(ContainElement("Warning EnqueueFailed"))
		operator.enqueue(task, "news-2")
		_, became := operator.enqueue(task, "news-3")
		Expect(became).To(Equal(celery.Skipped))
		operator.look(task)
		Eventually(eventsAbout(task)).Should(ContainElement("Normal RunSkipped"))
		editTask(task, `{concurrencyPolicy: Replace}`)
		_, became = operator.enqueue(task, "news-4")
		Expect(became).To(Equal(celery.Replaced))
		Eventually(eventsAbout(task)).Should(ContainElement("Normal RunReplaced"))

		waitedFor := task.Status.NextScheduleTime.DeepCopy()
		operator.clock.advance(waitedFor.Sub(operator.clock.Now()) + 2*time.Minute)
		operator.look(task)
		Eventually(eventsAbout(task)).Should(ContainElement("Warning MissedRun"))
		Eventually(now(task, func(t *v1alpha1.PeriodicTask) bool { return waitedFor.Before(t.Status.NextScheduleTime) })).Should(BeTrue())
		Expect(eventsAbout(task)()).To(ConsistOf("Normal Accepted", "Normal External", "Normal Ready",
			"Warning EnqueueFailed", "Normal RunSkipped", "Normal RunReplaced", "Warning MissedRun"))
	})
})
