package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// MaxArgumentBytes bounds a task's args and kwargs together, as JSON: they are
// on a command line, of which Linux takes no argument of 128 KiB.
const MaxArgumentBytes = 64 << 10

// Arguments are a task's args and kwargs as one JSON array and one JSON object.
func Arguments(task *v1alpha1.TaskSpec) (args, kwargs string, err error) {
	values := make([][]byte, len(task.Args))
	for i, value := range task.Args {
		values[i] = value.Raw
	}
	if args, err = compact("[" + string(bytes.Join(values, []byte(","))) + "]"); err != nil {
		return "", "", fmt.Errorf("reading args: %w", err)
	}
	if task.Kwargs == nil || len(task.Kwargs.Raw) == 0 {
		return args, "{}", nil
	}
	if kwargs, err = compact(string(task.Kwargs.Raw)); err != nil {
		return "", "", fmt.Errorf("reading kwargs: %w", err)
	}
	return args, kwargs, nil
}

func compact(text string) (string, error) {
	var out bytes.Buffer
	err := json.Compact(&out, []byte(text))
	return out.String(), err
}

// enqueueArgs are the flags of `worker enqueue`. What the task leaves to the
// worker is left out.
func enqueueArgs(task *v1alpha1.PeriodicTask) ([]string, error) {
	args, kwargs, err := Arguments(&task.Spec.Task)
	if err != nil {
		return nil, err
	}
	spec := &task.Spec.Task
	flags := []string{
		"--task=" + spec.Name,
		"--args=" + escape(args),
		"--kwargs=" + escape(kwargs),
		"--queue=" + spec.Queue,
	}
	duration := func(name string, d metav1.Duration) {
		if d.Duration > 0 {
			flags = append(flags, "--"+name+"="+d.Duration.String())
		}
	}
	if spec.Priority != nil {
		flags = append(flags, "--priority="+strconv.Itoa(int(*spec.Priority)))
	}
	duration("soft-time-limit", spec.SoftTimeLimit)
	duration("time-limit", spec.TimeLimit)
	duration("expires-after", spec.ExpiresAfter)
	if retry := spec.Retry; retry != nil {
		if retry.MaxRetries != nil {
			flags = append(flags, "--max-retries="+strconv.Itoa(int(*retry.MaxRetries)))
		}
		duration("initial-backoff", retry.InitialBackoff)
		duration("max-backoff", retry.MaxBackoff)
	}
	duration("result-ttl", spec.ResultTTL)
	return append(flags,
		"--concurrency-policy="+string(task.Spec.ConcurrencyPolicy),
		"--periodic-task="+task.Namespace+"/"+task.Name,
		"--uid="+string(task.UID),
	), nil
}

// escape keeps Kubernetes from expanding $(NAME) in a container's arguments.
func escape(text string) string { return strings.ReplaceAll(text, "$", "$$") }
