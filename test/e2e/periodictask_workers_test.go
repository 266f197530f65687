package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/tasks"
)

// celeryApplication is an application as its authors wrote it: Celery reads the
// broker and the result backend from its environment.
const celeryApplication = `
import os
from celery import Celery

app = Celery("reports")
app.conf.task_track_started = True

@app.task(name="reports.add")
def add(x, y=0):
    return {"sum": x + y, "by": "python", "pod": os.environ["POD_NAME"]}
`

var _ = Describe("A PeriodicTask's workers", func() {
	It("lose nothing when they become 4, and then 1", func() {
		const calls = 500
		namespace := newNamespace()
		broker := reachBroker()
		task := makeTask("nap").workedBy(2, 8).create(namespace)
		waitWorkers(task, 2)
		ids := enqueue(broker, namespace, tasks.Debug, calls, map[string]any{"sleep": 0.6})
		done := func() int { return statesOf(broker, ids)["SUCCESS"] }
		began := time.Now()

		By("scaling to 4")
		edit(task, func(spec *v1alpha1.PeriodicTaskSpec) { spec.Worker.Replicas = new(int32(4)) })
		waitWorkers(task, 4)
		atFour := done()
		Expect(atFour).To(BeNumerically("<", calls), "there is work left for 4")

		By("scaling to 1")
		edit(task, func(spec *v1alpha1.PeriodicTaskSpec) { spec.Worker.Replicas = new(int32(1)) })
		waitWorkers(task, 1)
		Eventually(func(g Gomega) {
			workers, _ := podsOf(task)
			g.Expect(workers).To(HaveLen(1))
		}).Should(Succeed())
		atOne := done()
		Expect(atOne).To(BeNumerically("<", calls), "there is work left for 1")

		By("waiting for the end")
		Eventually(func() map[string]int { return statesOf(broker, ids) }).Should(Equal(map[string]int{"SUCCESS": calls}))
		AddReportEntry("500 calls of 0.6 s", fmt.Sprintf("%v; ended when there were 4 workers: %d, when there was 1: %d",
			time.Since(began).Round(100*time.Millisecond), atFour, atOne))
		Eventually(func(g Gomega) {
			waiting, unacked := messagesOf(broker, namespace)
			g.Expect(waiting).To(BeZero())
			g.Expect(unacked).To(BeZero())
		}).Should(Succeed())
	})

	It("are held to a service's limit, and come again when it says", func() {
		const users, limit, window = 15, 5, 4 * time.Second
		namespace := newNamespace()
		broker := reachBroker()
		chat(broker, users, 10)
		services := makeNamespace(nil)
		exposed(services, "model", map[string]string{"app": "model"}, 80, false)
		model := makePod("model").labelled("app", "model").serving(80).ready(services)
		host := "model." + services + ".svc"

		task := makeTask("scores").calling(tasks.AnalyzeAllUsers, map[string]any{"scorer": "openai"}).workedBy(1, 16).
			with(func(pod *corev1.PodTemplateSpec, c *corev1.Container) {
				pod.Labels = map[string]string{"app": "scores"}
				c.Args = []string{"--queues=" + namespace, "--concurrency=16", "--max-retries=20"} // each refusal is a retry
				c.Env = []corev1.EnvVar{
					{Name: "OPENAI_BASE_URL", Value: "http://" + host + "/v1"},
					{Name: "OPENAI_API_KEY", Value: "key"},
					{Name: "OPENAI_MODEL", Value: "model"},
				}
			}).create(namespace)
		// Deny: with Allow, what Redis does not decide within the store timeout
		// passes uncounted, as can the first burst of a new pod on a busy node.
		policy := makePolicy("model").outbound(host).selecting("scores").withoutStore(v1alpha1.OnStoreFailureDeny)
		policy.Spec.Identity.Sources = []v1alpha1.IdentitySource{{BearerToken: &v1alpha1.BearerTokenSource{}}} // one key, one quota
		policy.Spec.Limits = []v1alpha1.Limit{{Requests: limit, Window: metav1.Duration{Duration: window}}}
		enforced := policy.create(namespace)
		waitWorkers(task, 1)
		waitEnforced(enforced, 1)

		id := runNow(task, "now")
		waitRun(task, id, celery.Success)
		var run struct{ Children []string }
		resultOf(broker, id, &run)
		Expect(run.Children).To(HaveLen(users))
		Eventually(func() map[string]int { return statesOf(broker, run.Children) }).Should(Equal(map[string]int{"SUCCESS": users}))
		for user := range users {
			profile, err := broker.Client().HGetAll(ctx, fmt.Sprintf("personality:profile:user-%d", user)).Result()
			Expect(err).NotTo(HaveOccurred())
			Expect(profile).To(And(HaveKeyWithValue("sentiment_scorer", "openai"), HaveKeyWithValue("sentiment_mean", "0.5000")))
		}

		By("asking the service when it was called")
		var arrivals []time.Time
		text := runKubectl("get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:80/proxy/arrivals", services, model.Name))
		Expect(json.Unmarshal([]byte(text), &arrivals)).To(Succeed(), text)
		Expect(arrivals).To(HaveLen(users), "what was limited never reached the service")
		slices.SortFunc(arrivals, time.Time.Compare)
		// The limit holds at the time of admission; on the way a request takes a while.
		const way = 500 * time.Millisecond
		for i := limit; i < len(arrivals); i++ {
			Expect(arrivals[i].Sub(arrivals[i-limit])).To(BeNumerically(">=", window-way), "between calls %d and %d", i-limit+1, i+1)
		}
		took := arrivals[users-1].Sub(arrivals[0])
		Expect(took).To(BeNumerically("<", 4*window), "they came when they were told to")
		AddReportEntry("15 calls at 5 in 4 s", took.Round(10*time.Millisecond).String())
	})

	It("may be a Python application's own, unmodified", func() {
		namespace := newNamespace()
		broker := reachBroker()
		code := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "reports"},
			Data:       map[string]string{"reports.py": celeryApplication},
		}
		Expect(cluster.Create(ctx, code)).To(Succeed())
		task := makeTask("python").calling("reports.add", map[string]any{"x": 1, "y": 2}).workedBy(1, 1).withImage(appImage).
			with(func(pod *corev1.PodTemplateSpec, c *corev1.Container) {
				c.Command = []string{"/usr/bin/python3", "-m", "celery", "-A", "reports", "worker", "-Q", namespace, "-n", "celery@$(POD_NAME)", "--concurrency=2"}
				c.Env = []corev1.EnvVar{{Name: "PYTHONPATH", Value: "/application"}, {Name: "PYTHONDONTWRITEBYTECODE", Value: "1"}}
				c.VolumeMounts = []corev1.VolumeMount{{Name: "application", MountPath: "/application", ReadOnly: true}, {Name: "tmp", MountPath: "/tmp"}}
				pod.Spec.Volumes = []corev1.Volume{
					{Name: "application", VolumeSource: corev1.VolumeSource{
						ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: code.Name}},
					}},
					{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				}
				host := makePod("").withHostPrograms()
				pod.Spec.Volumes = append(pod.Spec.Volumes, host.Spec.Volumes...)
				c.VolumeMounts = append(c.VolumeMounts, host.container().VolumeMounts...)
			}).create(namespace)
		waitWorkers(task, 1)
		workers, _ := podsOf(task)
		Expect(workers).To(HaveLen(1))
		Expect(hasSidecar(&workers[0])).To(BeTrue())

		id := runNow(task, "now")
		waitRun(task, id, celery.Success)
		var answer map[string]any
		resultOf(broker, id, &answer)
		Expect(answer).To(And(HaveKeyWithValue("sum", BeNumerically("==", 3)), HaveKeyWithValue("by", "python"), HaveKeyWithValue("pod", workers[0].Name)))

		By("calling what the application does not know")
		edit(task, func(spec *v1alpha1.PeriodicTaskSpec) { spec.Task.Kwargs.Raw = []byte(`{"z": 3}`) })
		failed := runNow(task, "mistaken")
		waitRun(task, failed, celery.Failure)
		Expect(task.Status.LastTask.Error).To(And(ContainSubstring("TypeError"), ContainSubstring("z")))
	})
})

var _ = Describe("The samples", func() {
	It("are accepted", func() {
		const samples = "../../config/samples"
		namespace := newNamespace()
		runKubectl("-n", namespace, "apply", "-k", samples)
		runKubectl("-n", namespace, "apply", "-f", samples+"/periodictask_celery.yaml")
		files, err := os.ReadDir(samples)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func(g Gomega) {
			accepted := strings.Fields(runKubectl("-n", namespace, "get", "rlpol,ptask",
				"-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Accepted")].status}{"\n"}{end}`))
			g.Expect(accepted).To(HaveLen(len(files)-1), "one of each file but kustomization.yaml")
			g.Expect(accepted).To(HaveEach("True"))
		}).Should(Succeed())
		runKubectl("-n", namespace, "delete", "rlpol,ptask", "--all", "--wait=false")
		Eventually(func() string { return runKubectl("-n", namespace, "get", "rlpol,ptask", "-o", "name") }).Should(BeEmpty())
	})
})
