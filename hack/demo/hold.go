package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/child"
)

// pauses between the calls of each user: the first has more to say than most limits
// allow.
var pauses = map[string]time.Duration{"user-1": 200 * time.Millisecond, "user-2": 2 * time.Second}

// runInterval is how often the task is enqueued: nobody makes Jobs here.
const runInterval = 20 * time.Second

// hold has users call, and a worker work, with the page before them, until ctx ends.
func (h *stage) hold(ctx context.Context, samples string, policies []v1alpha1.RateLimitPolicy, task *v1alpha1.PeriodicTask) error {
	page, err := h.startPage(ctx, samples)
	if err != nil {
		return err
	}
	workers, err := employ(h.redis.Addr(), task)
	if err != nil {
		return errors.Join(err, end(page))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var calling sync.WaitGroup
	for i := range policies {
		for user, pause := range pauses {
			calling.Go(func() {
				client := &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
				every(ctx, pause, func() { _, _ = h.ask(ctx, client, &policies[i], user) }) // the page says what became of it
			})
		}
	}
	calling.Go(func() { every(ctx, runInterval, func() { _, _ = workers.enqueue(ctx) }) })
	select {
	case <-ctx.Done():
	case <-page.Done():
		err = fmt.Errorf("the page has ended: %w", errors.Join(page.Err()))
	}
	cancel()
	calling.Wait()
	return errors.Join(err, workers.stop(), end(page))
}

// every calls f at once and then at an interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// startPage builds and starts what answers a browser: programs of their own, so that
// the demo without them needs nothing of Kubernetes.
func (h *stage) startPage(ctx context.Context, samples string) (*child.Process, error) {
	folder, err := os.MkdirTemp("", "weir-demo-")
	if err != nil {
		return nil, err
	}
	h.folder = folder
	fmt.Fprintln(os.Stderr, "\nBuilding the operator and the page …")
	building := exec.CommandContext(ctx, "go", "build", "-o", folder+"/", ".", "./hack/demo/page")
	if output, err := building.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the page: %w\n%s", err, output)
	}
	command := exec.Command(filepath.Join(folder, "page"), "-samples", samples, "-namespace", namespace,
		"-operator", filepath.Join(folder, "weir"), "-redis", "redis://"+h.redis.Addr())
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	return child.Start(command)
}

// end interrupts the page, and waits for what it started.
func end(page *child.Process) error {
	_ = page.Signal(syscall.SIGINT) // an error says that it has ended
	<-page.Done()
	return page.Err()
}
