package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/tasks"
)

// chat fills the trial Redis with messages of as many users.
func chat(broker *celery.Broker, users, messages int) {
	GinkgoHelper()
	texts := []string{
		"I love this, it made my day!", "That was a terrible idea and I hate it.", "The train leaves at nine.",
		"Thank you so much, you are wonderful :)", "Nothing works, this is awful.", "What time is it there?",
	}
	now := time.Now().UTC()
	for user := range users {
		lines := make([]any, messages)
		for i := range lines {
			line, err := json.Marshal(map[string]any{
				"id": i, "role": "user", "content": texts[(user+i)%len(texts)],
				"timestamp": now.Add(-time.Duration(i) * time.Minute).Format(time.RFC3339),
			})
			Expect(err).NotTo(HaveOccurred())
			lines[i] = line
		}
		pipelined(broker, func(pipe redis.Pipeliner) { pipe.RPush(ctx, fmt.Sprintf("chat:messages:user-%d", user), lines...) })
	}
	DeferCleanup(func() {
		keys := append(keysLike(broker, "chat:messages:*"), keysLike(broker, "personality:*")...)
		pipelined(broker, func(pipe redis.Pipeliner) { pipe.Unlink(ctx, keys...) })
	})
}

// lastEnd is when the last of some calls ended.
func lastEnd(broker *celery.Broker, ids []string) (last time.Time) {
	GinkgoHelper()
	for _, id := range ids {
		result, err := broker.ReadResult(ctx, id)
		Expect(err).NotTo(HaveOccurred())
		if result.DoneAt.After(last) {
			last = result.DoneAt
		}
	}
	return last
}

// columns of `kubectl get`, as they are printed.
func columns(arguments ...string) (names, values []string) {
	GinkgoHelper()
	lines := strings.Split(strings.TrimSpace(runKubectl(arguments...)), "\n")
	Expect(lines).To(HaveLen(2))
	// A column begins where its name does; names hold single spaces.
	for _, at := range regexp.MustCompile(`\S+( \S+)*`).FindAllStringIndex(lines[0], -1) {
		names = append(names, lines[0][at[0]:at[1]])
		value := ""
		if at[0] < len(lines[1]) {
			value, _, _ = strings.Cut(lines[1][at[0]:], "  ")
		}
		values = append(values, strings.TrimSpace(value))
	}
	return names, values
}

var _ = Describe("A PeriodicTask", func() {
	It("fills the profiles of 1,000 users by the clock, and says at each step how far it is", func() {
		const users, messages = 1000, 50
		namespace := newNamespace()
		broker := reachBroker()
		chat(broker, users, messages)
		// The workers are kept busy over the minute, so that the run is seen to wait.
		over := time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + 3*time.Second))
		busy := enqueue(broker, namespace, tasks.Debug, 16, map[string]any{"sleep": over.Seconds()})
		task := makeTask("sentiment").every(everyMinute).calling(tasks.AnalyzeAllUsers, map[string]any{"window": "24h"}).
			workedBy(2, 8).whileUnfinished(v1alpha1.ConcurrencyPolicyForbid).create(namespace)
		seen := watchTask(task)
		waitWorkers(task, 2)

		By("waiting for the minute")
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(task), task)).To(Succeed())
			g.Expect(task.Status.LastTask).NotTo(BeNil())
			g.Expect(task.Status.LastTask.State).To(Equal(string(celery.Pending)))
			g.Expect(task.Status.QueueDepth).To(HaveValue(BeNumerically("==", 1)))
			g.Expect(task.Status.LastScheduleTime).NotTo(BeNil())
		}).WithTimeout(90 * time.Second).Should(Succeed())
		jobs := &batchv1.JobList{}
		Expect(cluster.List(ctx, jobs, client.InNamespace(namespace))).To(Succeed())
		Expect(jobs.Items).NotTo(BeEmpty())
		slices.SortFunc(jobs.Items, func(a, b batchv1.Job) int { return strings.Compare(a.Name, b.Name) })
		id := celery.OccurrenceID(string(task.UID), jobs.Items[0].Name, string(jobs.Items[0].UID))
		Expect(task.Status.LastTask.ID).To(Equal(id))

		By("waiting until the queue is worked off")
		waitRun(task, id, celery.Success)
		var run struct {
			Users    int
			Children []string
		}
		resultOf(broker, id, &run)
		Expect(run.Users).To(Equal(users))
		Expect(run.Children).To(HaveLen(users))
		Eventually(func() map[string]int { return statesOf(broker, run.Children) }).
			Should(Equal(map[string]int{string(celery.Success): users}))
		waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
			g.Expect(status.QueueDepth).To(HaveValue(BeZero()))
			g.Expect(status.LastScheduleTime).NotTo(BeNil())
			g.Expect(status.LastSuccessfulTime).NotTo(BeNil())
			g.Expect(status.NextScheduleTime.After(status.LastScheduleTime.Time)).To(BeTrue())
			g.Expect(status.Workers).To(Equal("2/2"))
		})

		By("reading what kubectl prints")
		names, values := columns("-n", namespace, "get", "ptask")
		Expect(names).To(Equal([]string{"NAME", "SCHEDULE", "QUEUE", "LAST RUN", "STATE", "NEXT RUN", "DEPTH", "WORKERS", "READY", "AGE"}))
		Expect(values).To(HaveExactElements(Equal("sentiment"), Equal(everyMinute), Equal(namespace), MatchRegexp(`^\d+s$|^1m`), Equal("SUCCESS"),
			MatchRegexp(`^\d{4}-\d\d-\d\dT\d\d:\d\d:00Z$`), Equal("0"), Equal("2/2"), Equal("True"), MatchRegexp(`^\d+m?\d*s?$`)))

		By("reading the profiles")
		profiles := make([]*redis.MapStringStringCmd, users)
		pipelined(broker, func(pipe redis.Pipeliner) {
			for user := range profiles {
				profiles[user] = pipe.HGetAll(ctx, fmt.Sprintf("personality:profile:user-%d", user))
			}
		})
		for user, profile := range profiles {
			Expect(profile.Val()).To(HaveKeyWithValue("messages_analyzed", fmt.Sprint(messages)), "user %d", user)
			Expect(profile.Val()).To(HaveKeyWithValue("sentiment_label", BeElementOf("positive", "neutral", "negative")))
		}

		By("looking at the pods: workers have sidecars, what enqueues has none")
		workers, enqueuers := podsOf(task)
		Expect(workers).To(HaveLen(2))
		Expect(enqueuers).NotTo(BeEmpty())
		for i := range workers {
			Expect(hasSidecar(&workers[i])).To(BeTrue())
		}
		for i := range enqueuers {
			Expect(hasSidecar(&enqueuers[i])).To(BeFalse())
		}

		By("going through what the status said")
		var states []string
		deepest, waited := int64(0), false
		for _, status := range seen() {
			waited = waited || status.NextScheduleTime != nil && status.LastScheduleTime == nil
			if status.QueueDepth != nil {
				deepest = max(deepest, *status.QueueDepth)
			}
			if run := status.LastTask; run != nil && run.ID == id && !slices.Contains(states, run.State) {
				states = append(states, run.State)
			}
		}
		Expect(waited).To(BeTrue(), "before its first run, nextScheduleTime says when that is")
		Expect(states).To(Or(Equal([]string{"PENDING", "SUCCESS"}), Equal([]string{"PENDING", "STARTED", "SUCCESS"})), "how the state went on")
		took := lastEnd(broker, run.Children).Sub(lastEnd(broker, busy))
		AddReportEntry("1,000 users of 50 messages", fmt.Sprintf("%v from when the workers were free to the last profile; states %v, deepest queue seen %d",
			took.Round(10*time.Millisecond), states, deepest))
	})

	DescribeTable("comes due by the clocks of its time zone", func(zone string) {
		location, err := time.LoadLocation(zone)
		Expect(err).NotTo(HaveOccurred())
		task := makeTask("noon").every("30 12 * * *").in(zone).create(makeNamespace(nil))
		waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
			g.Expect(status.NextScheduleTime).NotTo(BeNil())
			next := status.NextScheduleTime.In(location)
			g.Expect(next.Format("15:04:05")).To(Equal("12:30:00"))
			g.Expect(time.Until(next)).To(And(BeNumerically(">", 0), BeNumerically("<=", 25*time.Hour)))
			haveCondition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)(g, status)
		})
		cronJob := &batchv1.CronJob{}
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(task), cronJob)).To(Succeed())
		Expect(cronJob.Spec.TimeZone).To(HaveValue(Equal(zone)))
	},
		Entry("Kolkata, 5:30 ahead", "Asia/Kolkata"),
		Entry("Chatham, 12:45 or 13:45 ahead", "Pacific/Chatham"),
		Entry("New York", "America/New_York"),
	)

	It("that is suspended keeps its workers until the queue is empty, and gets them back", func() {
		namespace := makeNamespace(nil)
		broker := reachBroker()
		task := makeTask("nap").calling(tasks.Debug, map[string]any{"sleep": 2}).workedBy(2, 1).create(namespace)
		waitWorkers(task, 2)
		ids := enqueue(broker, namespace, tasks.Debug, 8, map[string]any{"sleep": 2}) // 8 s of work for two
		ids = append(ids, runNow(task, "now"))
		waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) { g.Expect(status.LastTask).NotTo(BeNil()) })

		By("suspending it")
		edit(task, func(spec *v1alpha1.PeriodicTaskSpec) { spec.Suspend = new(true) })
		seen := watchTask(task)
		waitTask(task, func(g Gomega, status *v1alpha1.PeriodicTaskStatus) {
			g.Expect(status.NextScheduleTime).To(BeNil())
			g.Expect(status.Workers).To(Equal("0/0"))
			haveCondition(v1alpha1.ConditionWorkersAvailable, metav1.ConditionFalse, v1alpha1.ReasonSuspended)(g, status)
		})
		Expect(statesOf(broker, ids)).To(Equal(map[string]int{"SUCCESS": len(ids)}), "not before all is done")
		for _, status := range seen() {
			if status.QueueDepth != nil && *status.QueueDepth > 0 {
				Expect(status.Workers).To(Equal("2/2"), "while %d wait", *status.QueueDepth)
			}
		}

		By("resuming it")
		edit(task, func(spec *v1alpha1.PeriodicTaskSpec) { spec.Suspend = new(false) })
		waitWorkers(task, 2)
		Expect(task.Status.NextScheduleTime).NotTo(BeNil())
		Expect(runKubectl("-n", namespace, "get", "events")).NotTo(ContainSubstring(v1alpha1.ReasonWorkersUnavailable), "nothing was wrong")
		waitRun(task, runNow(task, "again"), celery.Success)
	})
})
