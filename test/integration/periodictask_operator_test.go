package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// taskOperator is the operator as far as PeriodicTasks go, with the rights of
// its role only, and a Redis. The test plays kube-controller-manager, the
// kubelet, and the pods.
type taskOperator struct {
	clock   *advancingClock
	redis   *redistest.Server
	client  *redis.Client
	broker  *celery.Broker
	urlFile string
}

// advancingClock is the real one, set forward.
type advancingClock struct {
	clock.RealClock
	mu    sync.Mutex
	ahead time.Duration
}

func (c *advancingClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.RealClock.Now().Add(c.ahead)
}

func (c *advancingClock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += by
}

// startTaskOperator runs until the container of specs ends.
func startTaskOperator(t testing.TB) *taskOperator {
	GinkgoHelper()
	server := redistest.Start(t)
	broker, err := celery.Open(server.URL(), celery.Options{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(broker.Close)
	o := &taskOperator{
		clock: &advancingClock{}, redis: server, client: server.Client(), broker: broker,
		urlFile: filepath.Join(t.TempDir(), "url"),
	}
	o.useBroker(server.URL())

	mgr, err := ctrl.NewManager(asOperator(), ctrl.Options{
		Scheme: scheme, Cache: controllers.CacheOptions(), Metrics: metricsserver.Options{BindAddress: "0"}, Logger: GinkgoLogr,
	})
	Expect(err).NotTo(HaveOccurred())
	reconciler := &controllers.PeriodicTaskReconciler{
		Client:   mgr.GetClient(),
		Live:     mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("weir-operator"),
		Broker:   &controllers.Broker{Files: []controllers.BrokerFiles{{URL: o.urlFile}}, Clock: o.clock, Logger: GinkgoLogr},
		Config:   manifests.Config{Image: "weir-worker:test"},
		Clock:    o.clock,
	}
	Expect(reconciler.SetupWithManager(mgr)).To(Succeed())
	(&replica{manager: mgr}).start()
	return o
}

// asOperator reaches the API server with the rights of config/rbac/role.yaml.
func asOperator() *rest.Config {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "rbac", "role.yaml"))
	Expect(err).NotTo(HaveOccurred())
	role := &rbacv1.ClusterRole{}
	Expect(yaml.Unmarshal(text, role)).To(Succeed())
	Expect(role.Rules).NotTo(BeEmpty())
	const user = "weir-operator-under-test"
	role.Name = user
	Expect(k8sClient.Create(ctx, role)).To(Succeed())
	Expect(k8sClient.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	})).To(Succeed())
	operator := rest.CopyConfig(cfg)
	operator.Impersonate.UserName = user
	return operator
}

// useBroker mounts the broker's URL.
func (o *taskOperator) useBroker(url string) {
	GinkgoHelper()
	Expect(os.WriteFile(o.urlFile, []byte(url), 0o600)).To(Succeed())
}

// look has the operator look at the broker now: a change to an object of the
// task stands for the seconds after which it would have looked by itself.
func (o *taskOperator) look(task *v1alpha1.PeriodicTask) {
	GinkgoHelper()
	o.clock.advance(3 * time.Second)
	touch := fmt.Sprintf(`{"metadata":{"annotations":{"touched":%q}}}`, time.Now())
	Expect(k8sClient.Patch(ctx, cronJobOf(task), client.RawPatch("application/merge-patch+json", []byte(touch)))).To(Succeed())
}

// enqueue plays `worker enqueue` of a Job.
func (o *taskOperator) enqueue(task *v1alpha1.PeriodicTask, job string) (id string, became celery.Enqueued) {
	GinkgoHelper()
	id = celery.OccurrenceID(string(task.UID), job, "")
	became, _, err := o.broker.EnqueueOccurrence(ctx, celery.Signature{
		ID: id, Task: task.Spec.Task.Name, Queue: task.Spec.Task.Queue, PeriodicTask: task.Namespace + "/" + task.Name,
	}, job, celery.Concurrency(task.Spec.ConcurrencyPolicy))
	Expect(err).NotTo(HaveOccurred())
	return id, became
}

// end plays a worker: the queue is empty, and the run has ended so.
func (o *taskOperator) end(task *v1alpha1.PeriodicTask, id, state, result string) {
	GinkgoHelper()
	Expect(o.client.Del(ctx, task.Spec.Task.Queue).Err()).To(Succeed())
	record := fmt.Sprintf(`{"status":%q,"result":%s,"traceback":null,"children":[],"date_done":"2026-01-01T00:00:00+00:00","task_id":%q}`, state, result, id)
	Expect(o.client.Set(ctx, "celery-task-meta-"+id, record, time.Hour).Err()).To(Succeed())
}

// createTask makes a task whose queue is its namespace's own.
func createTask(namespace, name, change string) *v1alpha1.PeriodicTask {
	GinkgoHelper()
	object := taskWith(change)
	object.SetNamespace(namespace)
	object.SetName(name)
	mergeOver(object.Object["spec"].(map[string]any), map[string]any{"task": map[string]any{"queue": namespace}})
	Expect(k8sClient.Create(ctx, object)).To(Succeed())
	task := &v1alpha1.PeriodicTask{}
	Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(object), task)).To(Succeed())
	return task
}

// editTask merges YAML over a task's spec; a null removes a field.
func editTask(task *v1alpha1.PeriodicTask, change string) {
	GinkgoHelper()
	patch, err := yaml.YAMLToJSON([]byte("spec: " + change))
	Expect(err).NotTo(HaveOccurred())
	Expect(k8sClient.Patch(ctx, task, client.RawPatch("application/merge-patch+json", patch))).To(Succeed())
}

// now reads an object again and shows something of it; its zero value while
// there is none.
func now[T any, O client.Object](object O, show func(O) T) func() T {
	return func() (shown T) {
		if err := k8sClient.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return shown
		}
		return show(object)
	}
}

// condition is "Status Reason" of a task's condition.
func condition(task *v1alpha1.PeriodicTask, conditionType string) func() string {
	return now(task, func(task *v1alpha1.PeriodicTask) string {
		c := meta.FindStatusCondition(task.Status.Conditions, conditionType)
		if c == nil || c.ObservedGeneration != task.Generation {
			return "not yet"
		}
		return string(c.Status) + " " + c.Reason
	})
}

func message(task *v1alpha1.PeriodicTask, conditionType string) string {
	return meta.FindStatusCondition(task.Status.Conditions, conditionType).Message
}

func cronJobOf(task *v1alpha1.PeriodicTask) *batchv1.CronJob {
	return &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: task.Namespace, Name: task.Name}}
}

func deploymentOf(task *v1alpha1.PeriodicTask) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: task.Namespace, Name: task.Name}}
}

// exists says whether an object is there.
func exists(object client.Object) func() bool {
	return func() bool { return k8sClient.Get(ctx, client.ObjectKeyFromObject(object), object) == nil }
}

// playWorkers plays the Deployment's controller: so many workers are ready.
func playWorkers(task *v1alpha1.PeriodicTask, ready int32) {
	GinkgoHelper()
	deployment := deploymentOf(task)
	Eventually(exists(deployment)).Should(BeTrue())
	before := deployment.DeepCopy()
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation,
		Replicas:           *deployment.Spec.Replicas, UpdatedReplicas: *deployment.Spec.Replicas,
		ReadyReplicas: ready, AvailableReplicas: ready,
	}
	Expect(k8sClient.Status().Patch(ctx, deployment, client.MergeFrom(before))).To(Succeed())
}

// playWorker makes a pod of the Deployment, with a status.
func playWorker(task *v1alpha1.PeriodicTask, name string, status corev1.PodStatus) *corev1.Pod {
	GinkgoHelper()
	deployment := deploymentOf(task)
	Eventually(exists(deployment)).Should(BeTrue())
	pod := createPod(task.Namespace, name, deployment.Spec.Template.Labels, false)
	pod.Status = status
	Expect(k8sClient.Status().Update(ctx, pod)).To(Succeed())
	return pod
}

// playJob plays the CronJob's controller: a Job of it, at a time.
func playJob(task *v1alpha1.PeriodicTask, name string, at time.Time) *batchv1.Job {
	GinkgoHelper()
	cronJob := cronJobOf(task)
	Eventually(exists(cronJob)).Should(BeTrue())
	before := cronJob.DeepCopy()
	cronJob.Status.LastScheduleTime = &metav1.Time{Time: at}
	Expect(k8sClient.Status().Patch(ctx, cronJob, client.MergeFrom(before))).To(Succeed())
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: task.Namespace, Name: name, Labels: cronJob.Spec.JobTemplate.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cronJob, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
		},
		Spec: cronJob.Spec.JobTemplate.Spec,
	}
	Expect(k8sClient.Create(ctx, job)).To(Succeed())
	return job
}

// endJob plays the Job's controller.
func endJob(job *batchv1.Job, failed bool) {
	GinkgoHelper()
	began := metav1.NewTime(time.Now().Add(-time.Second))
	job.Status.StartTime = &began
	end := func(conditionType batchv1.JobConditionType, reason, message string) {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: conditionType, Status: corev1.ConditionTrue, Reason: reason, Message: message,
			LastProbeTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	}
	if failed {
		end(batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		end(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	} else {
		end(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "")
		end(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "")
		job.Status.Succeeded = 1
		completed := metav1.Now()
		job.Status.CompletionTime = &completed
	}
	Expect(k8sClient.Status().Update(ctx, job)).To(Succeed())
}
