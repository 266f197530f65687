package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
)

// storeTimeout is the operator's default --store-timeout.
const storeTimeout = 100 * time.Millisecond

// restarts of the pod's sidecar.
func restarts(pod *corev1.Pod) int32 {
	GinkgoHelper()
	Expect(cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
	for i := range pod.Status.InitContainerStatuses {
		if pod.Status.InitContainerStatuses[i].Name == v1alpha1.SidecarContainer {
			return pod.Status.InitContainerStatuses[i].RestartCount
		}
	}
	return 0
}

var _ = Describe("Limits", Serial, func() {
	It("go on without the operator, also in a sidecar that is restarted meanwhile", func() {
		namespace := newNamespace()
		policy := makePolicy("api").selecting("api").admitting(10).create(namespace)
		pod := makePod("api").labelled("app", "api").serving(8080).sharingProcesses().ready(namespace)
		caller := makePod("caller").ready(makeNamespace(nil))
		waitEnforced(policy, 1)
		url := "http://" + pod.Status.PodIP + ":8080/"

		By("editing the limit, so that the rules in force are not those of the injection")
		patch := client.MergeFrom(policy.DeepCopy())
		policy.Spec.Limits[0].Requests = 20
		Expect(cluster.Patch(ctx, policy, patch)).To(Succeed())
		waitEnforced(policy, 1)

		By("ending every operator")
		DeferCleanup(func() { scale("statefulset/weir-operator", 2); waitForOperator() })
		scale("statefulset/weir-operator", 0)
		Expect(callFrom(caller.Namespace, caller.Name, "-n=15", "-H=X-User-ID: a", url).Statuses).To(Equal(map[string]int{"200": 15}))

		By("killing the sidecar's process")
		execIn(namespace, pod.Name, "/app", "kill", "/sidecar")
		Eventually(func() int32 { return restarts(pod) }).Should(BeEquivalentTo(1))
		waitReady(pod)
		Expect(callFrom(caller.Namespace, caller.Name, "-n=15", "-H=X-User-ID: a", url).Statuses).
			To(Equal(map[string]int{"200": 5, "429": 10}), "20 a minute: 15 before, 5 after")
	})

	It("do as the policy says without Redis, within the store timeout, and recover without a restart", func() {
		namespace := newNamespace()
		allow := makePolicy("allow").selecting("allow").admitting(10).withoutStore(v1alpha1.OnStoreFailureAllow).create(namespace)
		deny := makePolicy("deny").selecting("deny").admitting(10).withoutStore(v1alpha1.OnStoreFailureDeny).create(namespace)
		allowing := makePod("allowing").labelled("app", "allow").serving(8080).create(namespace)
		denying := makePod("denying").labelled("app", "deny").serving(8080).create(namespace)
		caller := makePod("caller").create(makeNamespace(nil))
		waitReady(allowing, denying, caller)
		waitEnforced(allow, 1)
		waitEnforced(deny, 1)
		call := func(pod *corev1.Pod, user string) report {
			GinkgoHelper()
			return callFrom(caller.Namespace, caller.Name, "-n=15", "-H=X-User-ID: "+user, "http://"+pod.Status.PodIP+":8080/")
		}
		Expect(call(allowing, "a").Statuses).To(Equal(map[string]int{"200": 10, "429": 5}))
		Expect(call(denying, "a").Statuses).To(Equal(map[string]int{"200": 10, "429": 5}))

		By("ending Redis")
		DeferCleanup(func() { scale("statefulset/weir-redis", 1) })
		scale("statefulset/weir-redis", 0)
		allowed, denied := call(allowing, "b"), call(denying, "b")
		Expect(allowed.Statuses).To(Equal(map[string]int{"200": 15}), "Allow lets requests pass")
		Expect(denied.Statuses).To(Equal(map[string]int{"503": 15}), "Deny answers 503")
		Expect(denied.answered()).To(BeZero())
		Expect(denied.Refused.Body).To(HaveKeyWithValue("type", "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"))
		AddReportEntry("longest request without Redis", time.Duration(max(allowed.MaxMicros, denied.MaxMicros)*1000).String()+" at a store timeout of "+storeTimeout.String())
		Expect(max(allowed.P50Micros, denied.P50Micros)).To(BeNumerically("<", (storeTimeout + 100*time.Millisecond).Microseconds()))

		By("starting Redis again")
		scale("statefulset/weir-redis", 1)
		Eventually(func() map[string]int { return call(denying, "c").Statuses }).Should(HaveKey("429"))
		Eventually(func() map[string]int { return call(allowing, "c").Statuses }).Should(HaveKey("429"))
		Expect(call(denying, "d").Statuses).To(Equal(map[string]int{"200": 10, "429": 5}))
		Expect(restarts(allowing) + restarts(denying)).To(BeZero())
	})
})

var _ = Describe("A PeriodicTask", Serial, func() {
	It("says that Redis is away, and goes on by itself when it is back", func() {
		namespace := makeNamespace(nil)
		task := makeTask("task").workedBy(1, 1).create(namespace)
		waitWorkers(task, 1)
		before := runNow(task, "before")
		waitRun(task, before, celery.Success)
		worker := theWorker(task)

		By("ending Redis")
		DeferCleanup(func() { scale("statefulset/weir-redis", 1) })
		scale("statefulset/weir-redis", 0)
		By("waiting until the operator notices")
		waitTask(task, haveCondition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBrokerUnavailable))
		Expect(task.Status.LastTask.ID).To(Equal(before), "what is known is not forgotten")
		waitEvent(task, v1alpha1.ReasonBrokerUnavailable)
		By("waiting until the workers notice")
		waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) { g.Expect(status.Workers).To(Equal("0/1")) })

		By("enqueuing in vain")
		during := runNow(task, "during")
		job := &batchv1.Job{}
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "during"}, job)).To(Succeed())
			g.Expect(job.Status.Failed).To(BeNumerically(">=", 1))
		}).Should(Succeed())

		By("starting Redis again")
		scale("statefulset/weir-redis", 1)
		waitRun(task, during, celery.Success)
		waitWorkers(task, 1)
		after := theWorker(task)
		Expect(after.UID).To(Equal(worker.UID))
		for _, status := range append(after.Status.InitContainerStatuses, after.Status.ContainerStatuses...) {
			Expect(status.RestartCount).To(BeZero(), status.Name)
		}
	})
})

// theWorker is the only one of a task.
func theWorker(task *v1alpha1.PeriodicTask) *corev1.Pod {
	GinkgoHelper()
	workers, _ := podsOf(task)
	Expect(workers).To(HaveLen(1))
	return &workers[0]
}
