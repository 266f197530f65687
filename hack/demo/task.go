package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
	"github.com/weir-dev/weir/worker/tasks"
)

// taskRow is what the task wrote into one user's profile.
type taskRow struct {
	Task             string `json:"task"`
	User             string `json:"user"`
	Label            string `json:"label"`
	MessagesAnalyzed int    `json:"messagesAnalyzed"`
}

// chats are what two users have said today, and the label that fits.
var chats = []struct {
	user, label string
	texts       []string
}{
	{"user-1", "positive", []string{"I love this song, it made my day!", "That was a great game.", "Thanks, you are wonderful."}},
	{"user-2", "negative", []string{"I feel terrible today.", "Everything went wrong and I hate it."}},
}

// readTask reads the PeriodicTask of the samples that the demo runs.
func readTask(samples string) (*v1alpha1.PeriodicTask, error) {
	text, err := os.ReadFile(filepath.Join(samples, "periodictask_sentiment.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading the sample PeriodicTask: run it from the project's root, or name the folder with -samples: %w", err)
	}
	task := &v1alpha1.PeriodicTask{}
	if err := yaml.UnmarshalStrict(text, task); err != nil {
		return nil, fmt.Errorf("reading the sample PeriodicTask: %w", err)
	}
	return task, nil
}

// crew is a worker, and what enqueues for it.
type crew struct {
	broker *celery.Broker
	task   *v1alpha1.PeriodicTask
	runs   int
	stop   func() error
}

// employ starts a worker of the PeriodicTask's queue.
func employ(address string, task *v1alpha1.PeriodicTask) (*crew, error) {
	broker, err := celery.Open("redis://"+address, celery.Options{})
	if err != nil {
		return nil, err
	}
	registry, err := tasks.New(tasks.Options{Redis: broker.Client()})
	if err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	worker, err := runner.New(runner.Config{
		Broker: broker, Registry: registry, Queues: []string{task.Spec.Task.Queue}, Concurrency: 8, Hostname: "weir@demo",
		Grace: time.Second, Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	working, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(working) }()
	return &crew{broker: broker, task: task, stop: func() error {
		stop()
		return errors.Join(<-ended, broker.Close())
	}}, nil
}

// enqueue an occurrence, as its Job does in a cluster.
func (c *crew) enqueue(ctx context.Context) (celery.Signature, error) {
	c.runs++
	job := fmt.Sprintf("%s-%d", c.task.Name, c.runs)
	call := celery.Signature{
		ID: celery.OccurrenceID(namespace, job, ""), Task: c.task.Spec.Task.Name, Queue: c.task.Spec.Task.Queue, PeriodicTask: namespace + "/" + c.task.Name,
	}
	if c.task.Spec.Task.Kwargs != nil {
		if err := json.Unmarshal(c.task.Spec.Task.Kwargs.Raw, &call.Kwargs); err != nil {
			return call, fmt.Errorf("reading the task's kwargs: %w", err)
		}
	}
	_, _, err := c.broker.EnqueueOccurrence(ctx, call, job, celery.Concurrency(c.task.Spec.ConcurrencyPolicy))
	return call, err
}

// runTask has one occurrence worked off, until every profile is there.
func runTask(ctx context.Context, c *crew) ([]taskRow, error) {
	if err := writeChats(ctx, c.broker.Client()); err != nil {
		return nil, fmt.Errorf("writing the users' messages: %w", err)
	}
	call, err := c.enqueue(ctx)
	if err != nil {
		return nil, err
	}
	return awaitProfiles(ctx, c.broker, call)
}

func writeChats(ctx context.Context, client *redis.Client) error {
	for _, chat := range chats {
		for i, text := range chat.texts {
			message, err := json.Marshal(map[string]any{
				"id": i, "role": "user", "content": text, "timestamp": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339),
			})
			if err != nil {
				return err
			}
			if err := client.RPush(ctx, "chat:messages:"+chat.user, message).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitProfiles waits for the call and for its children, one for each user.
func awaitProfiles(ctx context.Context, broker *celery.Broker, call celery.Signature) ([]taskRow, error) {
	parent, err := awaitResult(ctx, broker, call.ID)
	if err != nil {
		return nil, err
	}
	var found struct {
		Children []string `json:"children"`
	}
	if err := json.Unmarshal(parent.Value, &found); err != nil {
		return nil, fmt.Errorf("reading the result of %s: %w", call.Task, err)
	}
	for _, child := range found.Children {
		if _, err := awaitResult(ctx, broker, child); err != nil {
			return nil, err
		}
	}
	var rows []taskRow
	for _, chat := range chats {
		profile, err := broker.Client().HGetAll(ctx, "personality:profile:"+chat.user).Result()
		if err != nil {
			return nil, err
		}
		analyzed, _ := strconv.Atoi(profile["messages_analyzed"]) // absent: 0, and wrong
		rows = append(rows, taskRow{Task: call.Task, User: chat.user, Label: profile["sentiment_label"], MessagesAnalyzed: analyzed})
		if profile["sentiment_label"] != chat.label || analyzed != len(chat.texts) {
			return rows, fmt.Errorf("the profile of %s is %v, want %s from %d messages", chat.user, profile, chat.label, len(chat.texts))
		}
	}
	return rows, nil
}

func awaitResult(ctx context.Context, broker *celery.Broker, id string) (celery.Result, error) {
	for {
		result, err := broker.ReadResult(ctx, id)
		switch {
		case err != nil:
			return result, err
		case result.State == celery.Success:
			return result, nil
		case result.State.Done():
			return result, fmt.Errorf("call %s ended as %s: %s", id, result.State, result.Error)
		}
		select {
		case <-ctx.Done():
			return result, fmt.Errorf("call %s is %s: %w", id, result.State, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
