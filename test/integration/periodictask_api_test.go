package integration

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// validTask is the smallest task; the tables change one thing at a time.
const validTask = `
apiVersion: weir.dev/v1alpha1
kind: PeriodicTask
metadata: {name: hourly}
spec:
  schedule: "0 * * * *"
  task: {name: debug_task}
`

// taskWith merges YAML over the valid task's spec; a null removes a field.
func taskWith(change string) *unstructured.Unstructured {
	GinkgoHelper()
	task := policyFrom(validTask)
	var fields map[string]any
	Expect(yaml.Unmarshal([]byte(change), &fields)).To(Succeed(), change)
	mergeOver(task.Object["spec"].(map[string]any), fields)
	return task
}

func mergeOver(object, change map[string]any) {
	for name, value := range change {
		nested, isObject := value.(map[string]any)
		below, hasObject := object[name].(map[string]any)
		switch {
		case value == nil:
			delete(object, name)
		case isObject && hasObject:
			mergeOver(below, nested)
		default:
			object[name] = value
		}
	}
}

var _ = Describe("The API server, of PeriodicTasks,", func() {
	strict := client.FieldValidation("Strict")

	DescribeTable("accepts", func(change string) {
		task := taskWith(change)
		task.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, task, strict)).To(Succeed())
	},
		Entry("the smallest task", `{}`),
		Entry("a macro", `{schedule: "@hourly"}`),
		Entry("an interval", `{schedule: "@every 1h30m"}`),
		Entry("lists, steps, names and wide spaces", `{schedule: "*/5  0,12 1-7 JAN-MAR,DEC MON"}`),
		Entry("a time zone", `{timeZone: America/Argentina/Buenos_Aires}`),
		Entry("a time zone of an offset", `{timeZone: Etc/GMT+3}`),
		Entry("any JSON as arguments", `{task: {args: [1, -2.5, "a", null, true, [1], {a: {b: null}}], kwargs: {a: [null], "b c": {d: 1}}}}`),
		Entry("every limit", `{task: {priority: 9, softTimeLimit: 29m59s, timeLimit: 30m, expiresAfter: 1h, resultTTL: 744h, retry: {maxRetries: 0, initialBackoff: 1s, maxBackoff: 1s}}}`),
		Entry("workers with nothing said", `{worker: {}}`),
		Entry("workers with a partial template", `{worker: {replicas: 0, concurrency: 1, template: {spec: {containers: [{name: worker, image: x}]}}}}`),
	)

	It("fills the defaults in", func() {
		task := taskWith(`{worker: {}, task: {retry: {}}}`)
		task.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, task, strict)).To(Succeed())
		stored := &v1alpha1.PeriodicTask{}
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(task), stored)).To(Succeed())
		spec := stored.Spec
		Expect(*spec.Suspend).To(BeFalse())
		Expect(spec.ConcurrencyPolicy).To(Equal(v1alpha1.ConcurrencyPolicyAllow))
		Expect(spec.StartingDeadlineSeconds).To(BeNil())
		Expect(*spec.SuccessfulJobsHistoryLimit).To(BeEquivalentTo(3))
		Expect(*spec.FailedJobsHistoryLimit).To(BeEquivalentTo(1))
		Expect(spec.Task.Queue).To(Equal("celery"))
		Expect(spec.Task.Priority).To(BeNil())
		Expect(spec.Task.ResultTTL.Hours()).To(BeEquivalentTo(24))
		Expect(*spec.Task.Retry.MaxRetries).To(BeEquivalentTo(3))
		Expect(spec.Task.Retry.InitialBackoff.Seconds()).To(BeEquivalentTo(10))
		Expect(spec.Task.Retry.MaxBackoff.Minutes()).To(BeEquivalentTo(10))
		Expect(*spec.Worker.Replicas).To(BeEquivalentTo(1))
		Expect(spec.Worker.Concurrency).To(BeEquivalentTo(8))
	})

	It("keeps the arguments as they are written", func() {
		task := taskWith(`{task: {args: [1, null, {deep: [12345678901, null]}], kwargs: {none: null, text: "$(HOME)"}}}`)
		task.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, task, strict)).To(Succeed())
		stored := &v1alpha1.PeriodicTask{}
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(task), stored)).To(Succeed())
		var args []string
		for _, value := range stored.Spec.Task.Args {
			args = append(args, string(value.Raw))
		}
		Expect(args).To(Equal([]string{`1`, `null`, `{"deep":[12345678901,null]}`}))
		Expect(string(stored.Spec.Task.Kwargs.Raw)).To(Equal(`{"none":null,"text":"$(HOME)"}`))
	})

	DescribeTable("refuses, naming the field and the remedy", func(change string, sentences ...string) {
		task := taskWith(change)
		task.SetNamespace(newNamespace(nil))
		err := k8sClient.Create(ctx, task, strict)
		Expect(err).To(HaveOccurred())
		Expect(apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)).To(BeTrue(), "a refusal, not a failure: %v", err)
		for _, sentence := range sentences {
			Expect(err.Error()).To(ContainSubstring(sentence))
		}
	},
		Entry("no schedule", `{schedule: null}`, "spec.schedule"),
		Entry("an empty schedule", `{schedule: ""}`, "spec.schedule"),
		Entry("four fields", `{schedule: "0 * * *"}`, "spec.schedule", "five fields"),
		Entry("six fields", `{schedule: "0 0 * * * *"}`, "spec.schedule", "five fields"),
		Entry("words", `{schedule: hourly}`, "spec.schedule", "five fields"),
		Entry("a time zone in the schedule", `{schedule: "TZ=UTC 0 * * * *"}`, "spec.schedule", "use timeZone"),
		Entry("a time zone in the schedule, cron's way", `{schedule: "CRON_TZ=UTC 0 * * * *"}`, "spec.schedule", "use timeZone"),
		Entry("an empty time zone", `{timeZone: ""}`, "spec.timeZone"),
		Entry("the local time zone", `{timeZone: local}`, "spec.timeZone", "IANA name"),
		Entry("a path for a time zone", `{timeZone: ../etc/passwd}`, "spec.timeZone"),
		Entry("an unknown concurrency policy", `{concurrencyPolicy: Maybe}`, "spec.concurrencyPolicy"),
		Entry("a negative deadline", `{startingDeadlineSeconds: -1}`, "spec.startingDeadlineSeconds"),
		Entry("a negative history", `{failedJobsHistoryLimit: -1}`, "spec.failedJobsHistoryLimit"),
		Entry("no task", `{task: null}`, "spec.task"),
		Entry("a task without name", `{task: {name: null}}`, "spec.task.name"),
		Entry("a task's name with a space", `{task: {name: "a b"}}`, "spec.task.name"),
		Entry("a queue with a space", `{task: {queue: "a b"}}`, "spec.task.queue"),
		Entry("a queue with a control character", `{task: {queue: "a\u0006b"}}`, "spec.task.queue"),
		Entry("a queue too long", `{task: {queue: `+strings.Repeat("q", 129)+`}}`, "spec.task.queue"),
		Entry("priority 10", `{task: {priority: 10}}`, "spec.task.priority"),
		Entry("args that are no list", `{task: {args: {a: 1}}}`, "spec.task.args"),
		Entry("65 args", `{task: {args: `+list(65, func(i int) string { return fmt.Sprint(i) })+`}}`, "spec.task.args", "64"),
		Entry("kwargs that are no object", `{task: {kwargs: [1]}}`, "spec.task.kwargs"),
		Entry("65 kwargs", `{task: {kwargs: {`+strings.Trim(list(65, func(i int) string { return fmt.Sprintf("k%d: 1", i) }), "[]")+`}}}`, "spec.task.kwargs", "64"),
		Entry("no time at all", `{task: {timeLimit: 0s}}`, "spec.task.timeLimit", "from 1s to 168h"),
		Entry("a week and a second", `{task: {timeLimit: 168h1s}}`, "spec.task.timeLimit", "168h"),
		Entry("a fraction of a second", `{task: {softTimeLimit: 1.5s}}`, "spec.task.softTimeLimit"),
		Entry("a soft limit above the hard one", `{task: {softTimeLimit: 31m, timeLimit: 30m}}`, "spec.task.softTimeLimit", "must not exceed timeLimit"),
		Entry("an expiry that is no duration", `{task: {expiresAfter: soon}}`, "spec.task.expiresAfter"),
		Entry("results kept for ever", `{task: {resultTTL: 10000h}}`, "spec.task.resultTTL", "744h"),
		Entry("1,000 retries", `{task: {retry: {maxRetries: 1000}}}`, "spec.task.retry.maxRetries"),
		Entry("a backoff that starts above its end", `{task: {retry: {initialBackoff: 11m}}}`, "spec.task.retry.initialBackoff", "must not exceed maxBackoff"),
		Entry("negative workers", `{worker: {replicas: -1}}`, "spec.worker.replicas"),
		Entry("no concurrency", `{worker: {concurrency: 0}}`, "spec.worker.concurrency"),
		Entry("a template that is no object", `{worker: {template: [1]}}`, "spec.worker.template"),
		Entry("an unknown field", `{cron: "* * * * *"}`, "unknown field", "spec.cron"),
	)

	It("refuses a name that is too long for a CronJob", func() {
		task := taskWith(`{}`)
		task.SetNamespace(newNamespace(nil))
		task.SetName(strings.Repeat("n", 53))
		Expect(k8sClient.Create(ctx, task)).To(MatchError(ContainSubstring("metadata.name has at most 52 characters")))
		task.SetName(strings.Repeat("n", 52))
		Expect(k8sClient.Create(ctx, task)).To(Succeed())
	})

	DescribeTable("refuses to move a task to another queue", func(before, after string) {
		task := taskWith(before)
		task.SetNamespace(newNamespace(nil))
		Expect(k8sClient.Create(ctx, task)).To(Succeed())
		edited := taskWith(after)
		edited.SetNamespace(task.GetNamespace())
		edited.SetResourceVersion(task.GetResourceVersion())
		err := k8sClient.Update(ctx, edited)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err.Error()).To(And(ContainSubstring("spec.task.queue"), ContainSubstring("queue is immutable")))
	},
		Entry("from one to another", `{task: {queue: a}}`, `{task: {queue: b}}`),
		Entry("from the default", `{}`, `{task: {queue: b}}`),
		Entry("back to the default", `{task: {queue: b}}`, `{}`),
	)
})
