package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// admissions asks the webhook all the time.
type admissions struct {
	asked    int
	longest  time.Duration
	failures []string
}

// admitPods creates pods in a namespace, dry, one after the other, until it is
// told to stop.
func admitPods(namespace string) (stop func() admissions) {
	var got admissions
	asking, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		for asking.Err() == nil {
			pod := makePod("asked").DeepCopy()
			pod.Namespace = namespace
			began := time.Now()
			err := cluster.Create(ctx, pod, client.DryRunAll)
			if err == nil && !hasSidecar(pod) {
				err = errors.New("no sidecar")
			}
			if err == nil && slices.ContainsFunc(pod.Spec.InitContainers, hasToken) {
				err = errors.New("the API's token is in a container of Weir's")
			}
			got.asked++
			got.longest = max(got.longest, time.Since(began))
			if err != nil {
				got.failures = append(got.failures, began.Format("05.000 ")+err.Error())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	stop = sync.OnceValue(func() admissions { cancel(); <-done; return got })
	DeferCleanup(func() { stop() })
	return stop
}

// started counts how often the pod's container was started again.
func started(pod *corev1.Pod) int32 {
	if len(pod.Status.ContainerStatuses) == 0 {
		return 0
	}
	return pod.Status.ContainerStatuses[0].RestartCount
}

// hasToken says whether a container has the ordinary token of the API.
func hasToken(c corev1.Container) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount" && m.Name != "weir-no-api-token"
	})
}

// theLeader is the operator's pod that writes status.
func theLeader() *corev1.Pod {
	GinkgoHelper()
	leader := &corev1.Pod{}
	Eventually(func(g Gomega) {
		lease := &coordinationv1.Lease{}
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "weir-operator"}, lease)).To(Succeed())
		name, _, _ := strings.Cut(ptr.Deref(lease.Spec.HolderIdentity, ""), "_")
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: name}, leader)).To(Succeed())
		g.Expect(isReady(leader)).To(BeTrue())
	}).Should(Succeed())
	return leader
}

var _ = Describe("Of two operators, the leader", Serial, func() {
	var (
		namespace, url string
		caller, killer *corev1.Pod
		policy         *v1alpha1.RateLimitPolicy
	)

	BeforeEach(func() {
		namespace = newNamespace()
		policy = makePolicy("api").selecting("api").admitting(10).create(namespace)
		pods := []*corev1.Pod{
			makePod("api-1").labelled("app", "api").serving(8080).create(namespace),
			makePod("api-2").labelled("app", "api").serving(8080).create(namespace),
		}
		outside := makeNamespace(nil)
		caller = makePod("caller").create(outside)
		privileged := makePod("killer").asRoot()
		privileged.Spec.HostPID = true
		privileged.container().SecurityContext.Privileged = ptr.To(true)
		killer = privileged.create(outside)
		waitReady(append(pods, caller, killer)...)
		waitEnforced(policy, 2)
		url = "http://" + pods[1].Status.PodIP + ":8080/"
	})

	// enforced edits the limit, and returns how long it took until a pod held to it.
	enforced := func(limit int32) time.Duration {
		GinkgoHelper()
		patch := client.MergeFrom(policy.DeepCopy())
		policy.Spec.Limits[0].Requests = limit
		began := time.Now()
		Expect(cluster.Patch(ctx, policy, patch)).To(Succeed())
		user := 0
		Eventually(func() map[string]int {
			user++
			return callFrom(caller.Namespace, caller.Name, fmt.Sprintf("-n=%d", limit+2), fmt.Sprintf("-H=X-User-ID: %d-%d", limit, user), url).Statuses
		}).WithPolling(50 * time.Millisecond).Should(Equal(map[string]int{"200": int(limit), "429": 2}))
		return time.Since(began)
	}

	DescribeTable("may go, and no admission fails, edits are enforced, and the status is right",
		func(end func(*corev1.Pod), tolerated int) {
			stop := admitPods(namespace)
			for round := range int32(3) {
				leader := theLeader()
				end(leader)
				toEnforced := enforced(11 + round)
				began := time.Now()
				waitEnforced(policy, 2)
				AddReportEntry("edit right after", fmt.Sprintf("enforced after %s, in the status %s later", toEnforced, time.Since(began)))
				Expect(toEnforced).To(BeNumerically("<", 5*time.Second))
				By("waiting until it is back: one at a time is what two replicas stand")
				Eventually(func(g Gomega) {
					back := &corev1.Pod{}
					g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(leader), back)).To(Succeed())
					g.Expect(back.UID != leader.UID || started(back) > started(leader)).To(BeTrue())
					g.Expect(isReady(back)).To(BeTrue())
				}).Should(Succeed())
				waitForOperator()
			}
			got := stop()
			AddReportEntry("admissions", fmt.Sprintf("%d, the longest %s, failed: %v", got.asked, got.longest, got.failures))
			Expect(len(got.failures)).To(BeNumerically("<=", tolerated), "%v", got.failures)
		},
		Entry("drained", func(leader *corev1.Pod) {
			runKubectl("-n", systemNamespace, "delete", "pod", leader.Name, "--wait=false")
		}, 0),
		Entry("killed", func(leader *corev1.Pod) {
			execIn(killer.Namespace, killer.Name, "/app", "kill", "/operator", string(leader.UID))
		}, 0),
	)
})
