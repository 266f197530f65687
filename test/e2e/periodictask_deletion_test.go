package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/tasks"
)

// waitGone waits until an object is no more.
func waitGone(object client.Object) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		err := cluster.Get(ctx, client.ObjectKeyFromObject(object), object)
		g.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%T %s is still there: %v", object, object.GetName(), err)
	}).Should(Succeed())
}

// overdue makes a task with one run under way that lasts long, and two waiting.
func overdue(namespace string) *v1alpha1.PeriodicTask {
	GinkgoHelper()
	task := makeTask("nap").calling(tasks.Debug, map[string]any{"sleep": 600}).workedBy(1, 1).create(namespace)
	waitWorkers(task, 1)
	waitRun(task, runNow(task, "first"), celery.Started)
	runNow(task, "second")
	runNow(task, "third")
	waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
		g.Expect(status.QueueDepth).To(HaveValue(BeNumerically("==", 2)))
	})
	return task
}

var _ = Describe("Deleting", func() {
	It("a PeriodicTask leaves neither objects nor messages of its own", func() {
		namespace := makeNamespace(nil)
		broker := reachBroker()
		task := overdue(namespace)
		foreign := enqueue(broker, namespace, tasks.Debug, 1, nil)
		DeferCleanup(func() { Expect(broker.Client().Del(ctx, namespace).Err()).To(Succeed()) })

		began := time.Now()
		Expect(cluster.Delete(ctx, task)).To(Succeed())
		waitGone(task)
		AddReportEntry("deletion of a task with a run under way", time.Since(began).Round(100*time.Millisecond).String())
		waiting, unacked := messagesOf(broker, namespace)
		Expect(waiting).To(BeNumerically("==", 1), "somebody else's message stays")
		Expect(unacked).To(BeZero())
		Expect(broker.Client().LIndex(ctx, namespace, 0).Val()).To(ContainSubstring(foreign[0]))
		Expect(keysLike(broker, "weir.*"+namespace+"*")).To(BeEmpty())
		Eventually(func(g Gomega) { // what the garbage collector deletes
			for _, list := range []client.ObjectList{&batchv1.CronJobList{}, &batchv1.JobList{}, &appsv1.DeploymentList{}, &corev1.PodList{}, &corev1.SecretList{}} {
				g.Expect(cluster.List(ctx, list, client.InNamespace(namespace))).To(Succeed())
				g.Expect(list).To(HaveField("Items", BeEmpty()))
			}
		}).Should(Succeed())
	})

	It("the namespace of a PeriodicTask ends within a minute, and leaves no messages", func() {
		namespace := makeNamespace(nil)
		broker := reachBroker()
		overdue(namespace)
		began := time.Now()
		object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		Expect(cluster.Delete(ctx, object)).To(Succeed())
		waitGone(object)
		AddReportEntry("deletion of a namespace with a run under way", time.Since(began).Round(100*time.Millisecond).String())
		waiting, unacked := messagesOf(broker, namespace)
		Expect(waiting + unacked).To(BeZero())
	})
})
