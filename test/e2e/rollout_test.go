package e2e

import (
	"encoding/json"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

var _ = Describe("A rolling restart at load", Serial, func() {
	It("loses no request with the sidecar that it does not lose without", func() {
		namespace := newNamespace()
		policy := makePolicy("api").selecting("through").admitting(10_000).within(time.Second).create(namespace)
		leaving := func(app string) *podBuilder { // as an application does that is written for Kubernetes
			pod := makePod("").labelled("app", app).serving(8080)
			pod.container().Command = append(pod.container().Command, "-drain=3s")
			pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
			return pod
		}
		leaving("through").deployed(namespace, "through", 2)
		leaving("direct").labelled(v1alpha1.LabelInject, v1alpha1.InjectOptOut).deployed(namespace, "direct", 2)
		caller := makePod("caller").ready(makeNamespace(nil))
		loads := map[string]func() losses{}
		for _, name := range []string{"through", "direct"} {
			exposed(namespace, name, map[string]string{"app": name}, 80, false)
			waitRolledOut(namespace, name)
			url := fmt.Sprintf("http://%s.%s.svc/", name, namespace)
			Eventually(func() int { return callFrom(caller.Namespace, caller.Name, url).answered() }).Should(Equal(1))
			loads[name] = loadFrom(caller, url)
		}
		waitEnforced(policy, 2)

		By("restarting both")
		for range 2 {
			runKubectl("-n", namespace, "rollout", "restart", "deployment/through", "deployment/direct")
			waitRolledOut(namespace, "through")
			waitRolledOut(namespace, "direct")
		}
		By("waiting until the last old pods are gone")
		Eventually(func() int {
			pods := &corev1.PodList{}
			Expect(cluster.List(ctx, pods, client.InNamespace(namespace))).To(Succeed())
			return len(pods.Items)
		}).Should(Equal(4))

		through, direct := loads["through"](), loads["direct"]()
		AddReportEntry("requests through the sidecar, and direct", fmt.Sprintf("%+v\n%+v", through, direct))
		Expect(len(through.AnsweredBy)).To(BeNumerically(">=", 4), "pods of before and after")
		Expect(through.lost()).To(BeNumerically("<=", direct.lost()), "%+v", through)
	})
})

// losses is what `app load` prints.
type losses struct {
	Statuses   map[string]int `json:"statuses"`
	Errors     map[string]int `json:"errors"`
	AnsweredBy map[string]int `json:"answeredBy"`
}

// lost is how many requests the application has not answered.
func (l losses) lost() int {
	total := 0
	for _, n := range l.Errors {
		total += n
	}
	for status, n := range l.Statuses {
		if status != "200" {
			total += n
		}
	}
	return total
}

// loadFrom sends requests from a pod until it is told to stop.
func loadFrom(pod *corev1.Pod, url string) (stop func() losses) {
	GinkgoHelper()
	load := converse(pod, "/app", "load", url)
	return func() losses {
		GinkgoHelper()
		Expect(load.questions.Close()).To(Succeed())
		var line string
		Eventually(load.answers).Should(Receive(&line))
		var got losses
		Expect(json.Unmarshal([]byte(line), &got)).To(Succeed(), line)
		return got
	}
}

// deployed makes a Deployment of such pods, which replaces them all at once and
// each when its successor is ready.
func (b *podBuilder) deployed(namespace, name string, replicas int32) {
	GinkgoHelper()
	template := corev1.PodTemplateSpec{ObjectMeta: *b.ObjectMeta.DeepCopy(), Spec: *b.Spec.DeepCopy()}
	template.Name = ""
	rolling := &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromString("100%")), MaxUnavailable: ptr.To(intstr.FromInt32(0))}
	Expect(cluster.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: template,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": b.Labels["app"]}},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: rolling},
		},
	})).To(Succeed())
}

func waitRolledOut(namespace, name string) {
	GinkgoHelper()
	runKubectl("-n", namespace, "rollout", "status", "deployment/"+name, "--timeout=80s")
}
