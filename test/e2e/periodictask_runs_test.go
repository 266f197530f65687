package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/tasks"
)

var _ = Describe("A run of a PeriodicTask", func() {
	It("is left out while an earlier one is unfinished, where Forbid says so", func() {
		namespace := makeNamespace(nil)
		task := makeTask("nap").calling(tasks.Debug, map[string]any{"sleep": 4}).
			whileUnfinished(v1alpha1.ConcurrencyPolicyForbid).workedBy(1, 2).create(namespace)
		waitWorkers(task, 1)
		first := runNow(task, "first")
		waitRun(task, first, celery.Started)

		runNow(task, "second")
		waitJob(namespace, "second")
		Expect(waitEvent(task, "RunSkipped")).To(ContainSubstring("second"))
		waitRun(task, first, celery.Success)
		Expect(runKubectl("-n", namespace, "logs", "job/second")).To(ContainSubstring("left out"))
	})

	It("takes the place of an earlier one, where Replace says so", func() {
		namespace := makeNamespace(nil)
		broker := reachBroker()
		task := makeTask("nap").calling(tasks.Debug, map[string]any{"sleep": 600}).
			whileUnfinished(v1alpha1.ConcurrencyPolicyReplace).workedBy(1, 1).create(namespace)
		waitWorkers(task, 1)
		first := runNow(task, "first")
		waitRun(task, first, celery.Started)

		second := runNow(task, "second")
		waitRun(task, second, celery.Started) // there is room for one only
		Expect(waitEvent(task, "RunReplaced")).To(And(ContainSubstring("second"), ContainSubstring(first)))
		Expect(statesOf(broker, []string{first})).To(Equal(map[string]int{"REVOKED": 1}))
	})

	It("that fails says why, and leaves the task ready", func() {
		namespace := makeNamespace(nil)
		task := makeTask("fails").calling(tasks.Debug, map[string]any{"fail": "boom"}).retried(1, 6*time.Second).workedBy(1, 1).create(namespace)
		waitWorkers(task, 1)
		id := runNow(task, "now")
		waitRun(task, id, celery.Retry)
		Expect(task.Status.LastTask.Error).To(ContainSubstring("boom"))
		Expect(task.Status.LastTask.FinishedAt).To(BeNil())

		waitRun(task, id, celery.Failure)
		Expect(task.Status.LastTask.Error).To(ContainSubstring("boom"))
		Expect(task.Status.LastTask.FinishedAt).NotTo(BeNil())
		Expect(task.Status.LastSuccessfulTime).To(BeNil())
		Expect(task.Status.QueueDepth).To(HaveValue(BeZero()))
		Expect(meta.IsStatusConditionTrue(task.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue())
		Expect(waitEvent(task, "RunFailed")).To(And(ContainSubstring(id), ContainSubstring("boom")))
		Expect(runKubectl("-n", namespace, "describe", "ptask", "fails")).To(ContainSubstring("RunFailed"))
	})

	It("is enqueued but waits where the workers' image cannot be pulled, which is said", func() {
		namespace := makeNamespace(nil)
		task := makeTask("bad").workedBy(1, 1).withImage("registry.invalid/worker:1").create(namespace)
		id := runNow(task, "now")
		waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
			haveCondition(v1alpha1.ConditionWorkersAvailable, metav1.ConditionFalse, v1alpha1.ReasonWorkersUnavailable)(g, status)
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonWorkersUnavailable)(g, status)
			g.Expect(meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady).Message).To(And(
				ContainSubstring("ImagePullBackOff"), ContainSubstring("registry.invalid/worker:1")))
			g.Expect(status.Workers).To(Equal("0/1"))
		})
		waitRun(task, id, celery.Pending)
		Expect(task.Status.QueueDepth).To(HaveValue(BeNumerically("==", 1)))

		By("correcting the image")
		edit(task, func(spec *v1alpha1.PeriodicTaskSpec) { spec.Worker.Template = nil })
		waitWorkers(task, 1)
		waitRun(task, id, celery.Success)
	})
})
