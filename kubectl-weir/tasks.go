package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// What the operator calls the pods of a task's workers.
const (
	workerApp       = "weir-worker"
	workerContainer = "worker"
)

func (p *plugin) tasksCommand() *cobra.Command {
	all := false
	command := &cobra.Command{
		Use: "tasks", Short: "Show periodic tasks: schedule, last and next run, queue, workers", Args: cobra.NoArgs,
		RunE: p.with(func(ctx context.Context, c *cluster, _ []string) error {
			found := &v1alpha1.PeriodicTaskList{}
			if err := c.client.List(ctx, found, client.InNamespace(c.in(all))); err != nil {
				return err
			}
			found.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "PeriodicTaskList"}
			return p.print(found, func(t *table) { p.printTasks(t, found.Items, c.in(all)) })
		}),
	}
	command.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	return command
}

func (p *plugin) printTasks(t *table, tasks []v1alpha1.PeriodicTask, namespace string) {
	if len(tasks) == 0 {
		t.say("No PeriodicTask in %s. docs/periodictask.md has one to begin with.", where(namespace))
		return
	}
	t.row("NAMESPACE", "NAME", "SCHEDULE", "QUEUE", "LAST RUN", "STATE", "NEXT RUN", "DEPTH", "WORKERS", "READY")
	var unready []*v1alpha1.PeriodicTask
	for i := range tasks {
		task := &tasks[i]
		last, state, depth := "-", "-", "-"
		if run := task.Status.LastTask; run != nil {
			last, state = p.ago(run.EnqueuedAt), orDash(run.State)
		}
		if task.Status.QueueDepth != nil {
			depth = count(*task.Status.QueueDepth)
		}
		next := p.ago(task.Status.NextScheduleTime)
		if task.Suspended() {
			next = "suspended"
		}
		ready := "?"
		if condition := meta.FindStatusCondition(task.Status.Conditions, v1alpha1.ConditionReady); condition != nil {
			if ready = yesNo(condition.Status == metav1.ConditionTrue); ready == "no" {
				unready = append(unready, task)
			}
		}
		t.row(task.Namespace, task.Name, task.Spec.Schedule, task.Spec.Task.Queue, last, state, next, depth, orDash(task.Status.Workers), ready)
	}
	for i, task := range unready {
		if i == 0 {
			t.say("")
		}
		t.say("%s: %s", task.Name, meta.FindStatusCondition(task.Status.Conditions, v1alpha1.ConditionReady).Message)
	}
}

func (p *plugin) runCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run PTASK", Short: "Enqueue a periodic task now", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.names(tasks),
		RunE: p.with(func(ctx context.Context, c *cluster, args []string) error {
			cronJob := &batchv1.CronJob{}
			err := c.client.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: args[0]}, cronJob)
			if apierrors.IsNotFound(err) {
				return c.withoutCronJob(ctx, args[0])
			}
			if err != nil {
				return err
			}
			if cronJob.Labels[v1alpha1.LabelPeriodicTask] != args[0] {
				return fmt.Errorf("CronJob %s/%s is no PeriodicTask's", c.namespace, args[0])
			}
			job := jobFrom(cronJob)
			if err := c.client.Create(ctx, job); err != nil {
				return err
			}
			job.TypeMeta = metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"}
			return p.print(job, func(t *table) {
				t.say("Job %s enqueues it. Its run: kubectl weir tasks; what its workers say: kubectl weir logs %s.", job.Name, args[0])
			})
		}),
	}
}

// jobFrom is what kubectl create job --from makes.
func jobFrom(cronJob *batchv1.CronJob) *batchv1.Job {
	template := cronJob.Spec.JobTemplate.DeepCopy()
	if template.Annotations == nil {
		template.Annotations = map[string]string{}
	}
	template.Annotations["cronjob.kubernetes.io/instantiate"] = "manual"
	controls := true
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cronJob.Namespace, GenerateName: cronJob.Name + "-now-", Labels: template.Labels, Annotations: template.Annotations,
			// Not to block the CronJob's deletion, which would need a right on its finalizers.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "CronJob", Name: cronJob.Name, UID: cronJob.UID, Controller: &controls,
			}},
		},
		Spec: template.Spec,
	}
}

// task reads a PeriodicTask.
func (c *cluster) task(ctx context.Context, name string) (*v1alpha1.PeriodicTask, error) {
	task := &v1alpha1.PeriodicTask{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, task)
	if apierrors.IsNotFound(err) && !isMissingKind(err) {
		return nil, fmt.Errorf("there is no PeriodicTask %s in namespace %s: kubectl weir tasks -A shows all", name, c.namespace)
	}
	return task, err
}

// withoutCronJob says why a task has none.
func (c *cluster) withoutCronJob(ctx context.Context, name string) error {
	task, err := c.task(ctx, name)
	if err != nil {
		return err
	}
	if accepted := meta.FindStatusCondition(task.Status.Conditions, v1alpha1.ConditionAccepted); accepted != nil && accepted.Status != metav1.ConditionTrue {
		return fmt.Errorf("PeriodicTask %s is not accepted: %s", name, accepted.Message)
	}
	return fmt.Errorf("PeriodicTask %s has no CronJob yet: does the operator run? kubectl -n %s get pods", name, c.operatorNamespace)
}

func workersOf(task string) map[string]string {
	return map[string]string{labelApp: workerApp, v1alpha1.LabelPeriodicTask: task}
}

func (p *plugin) logsCommand() *cobra.Command {
	var follow bool
	var tail int64
	command := &cobra.Command{
		Use: "logs PTASK", Short: "Print what a periodic task's workers log", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.names(tasks),
		RunE: p.with(func(ctx context.Context, c *cluster, args []string) error {
			if p.flags.output != "" {
				return errors.New("logs are printed as they are, whatever -o")
			}
			task, err := c.task(ctx, args[0])
			if err != nil {
				return err
			}
			pods := &corev1.PodList{}
			if err := c.client.List(ctx, pods, client.InNamespace(c.namespace), client.MatchingLabels(workersOf(task.Name))); err != nil {
				return err
			}
			if len(pods.Items) == 0 {
				return fmt.Errorf("PeriodicTask %s has no workers of its own now: %s", task.Name, whyNoWorkers(task))
			}
			return p.logs(ctx, c, pods.Items, corev1.PodLogOptions{Container: workerContainer, Follow: follow, TailLines: &tail})
		}),
	}
	command.Flags().BoolVarP(&follow, "follow", "f", false, "go on until Ctrl-C")
	command.Flags().Int64Var(&tail, "tail", 100, "lines of each worker to begin with")
	return command
}

func whyNoWorkers(task *v1alpha1.PeriodicTask) string {
	if available := meta.FindStatusCondition(task.Status.Conditions, v1alpha1.ConditionWorkersAvailable); available != nil {
		return available.Message
	}
	return "kubectl weir tasks shows its state"
}

// logs prints those of some pods at the same time, each line with its pod's name.
func (p *plugin) logs(ctx context.Context, c *cluster, pods []corev1.Pod, options corev1.PodLogOptions) error {
	query := map[string]string{
		"container": options.Container, "follow": strconv.FormatBool(options.Follow), "tailLines": strconv.FormatInt(*options.TailLines, 10),
	}
	var mu sync.Mutex
	failed := make([]error, len(pods))
	var reading sync.WaitGroup
	read := func(i int) error {
		request := c.core.Get().Namespace(pods[i].Namespace).Resource("pods").Name(pods[i].Name).SubResource("log")
		for name, value := range query {
			request = request.Param(name, value)
		}
		stream, err := request.Stream(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }()
		for lines := bufio.NewReader(stream); ; {
			line, err := lines.ReadString('\n')
			if line != "" {
				mu.Lock()
				fmt.Fprintf(p.out, "[%s] %s\n", pods[i].Name, strings.TrimSuffix(line, "\n"))
				mu.Unlock()
			}
			if err != nil && (errors.Is(err, io.EOF) || ctx.Err() != nil) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	for i := range pods {
		if !options.Follow { // one after the other
			failed[i] = read(i)
			continue
		}
		reading.Go(func() { failed[i] = read(i) })
	}
	reading.Wait()
	return errors.Join(failed...)
}

func (p *plugin) deadCommand() *cobra.Command {
	command := &cobra.Command{Use: "dead", Short: "Show dead letters of a periodic task's queue, or put them back", Args: cobra.NoArgs}
	limit := 50
	list := &cobra.Command{
		Use: "list PTASK", Short: "Show dead letters, the newest first", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.names(tasks),
		RunE: p.with(func(ctx context.Context, c *cluster, args []string) error {
			words := []string{"list", "--limit", strconv.Itoa(limit)}
			if p.flags.output == "yaml" {
				return errors.New("dead letters are printed for people, or with -o json")
			}
			if p.flags.output == "json" {
				words = append(words, "--json")
			}
			return p.dead(ctx, c, args[0], words)
		}),
	}
	list.Flags().IntVar(&limit, "limit", limit, "how many")
	var ids string
	var all bool
	retry := &cobra.Command{
		Use: "retry PTASK (--id ID,… | --all)", Short: "Put dead letters back into the queue", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.names(tasks),
		RunE: p.with(func(ctx context.Context, c *cluster, args []string) error {
			if all == (ids != "") {
				return errors.New("either --id or --all is wanted: kubectl weir dead list " + args[0] + " has the ids")
			}
			words := []string{"retry"}
			if all {
				words = append(words, "--all")
			} else {
				words = append(words, "--id", ids)
			}
			return p.dead(ctx, c, args[0], words)
		}),
	}
	retry.Flags().StringVar(&ids, "id", "", "ids of messages, separated by commas")
	retry.Flags().BoolVar(&all, "all", false, "all of the queue")
	command.AddCommand(list, retry)
	return command
}

// dead has a worker of the task run its own command, as it has the broker's URL.
func (p *plugin) dead(ctx context.Context, c *cluster, name string, words []string) error {
	task, err := c.task(ctx, name)
	if err != nil {
		return err
	}
	pod, err := c.readyPod(ctx, c.namespace, workersOf(name))
	if none, ok := errors.AsType[*noPodError](err); ok && none.found == 0 {
		return fmt.Errorf("PeriodicTask %s has no workers of its own now, and one of them would look: %s", name, whyNoWorkers(task))
	}
	if err != nil {
		return err
	}
	command := append([]string{"/worker", "dead", words[0], "--queue", task.Spec.Task.Queue}, words[1:]...)
	if err := c.execute(ctx, pod, workerContainer, command, p.out, p.errOut); err != nil {
		return fmt.Errorf("running %s in pod %s: %w (workers of another image than Weir's have no dead letters)", strings.Join(command, " "), pod.Name, err)
	}
	return nil
}
