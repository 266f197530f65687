package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/child"
	"github.com/weir-dev/weir/worker/celery"
)

const (
	rounds      = 5
	concurrency = "8"
	noop        = "debug_task" // does nothing without arguments
	patience    = 2 * time.Minute
)

// side is one kind of worker.
type side struct {
	name    string
	tasks   int // so many that a round takes a few seconds
	command []string
	ready   string // what it says when it takes tasks
	rates   []float64
	cpu     []float64
	redis   []float64
	memory  []float64
}

// row is one side's medians.
type row struct {
	Side string `json:"side"`
	// TasksPerSecond, and how many times the first side's that is.
	TasksPerSecond float64 `json:"tasksPerSecond"`
	Ratio          float64 `json:"ratio"`
	// CPUMicros a task, of the worker's processes and of Redis.
	CPUMicros      float64 `json:"cpuMicros"`
	RedisCPUMicros float64 `json:"redisCpuMicros"`
	// MemoryMiB is the proportional set size of all of the worker's processes,
	// after the tasks.
	MemoryMiB   float64 `json:"memoryMiB"`
	MemoryRatio float64 `json:"memoryRatio"`
	Rounds      int     `json:"rounds"`
}

type tasksReport []row

// Table prints the rows for people.
func (rows tasksReport) Table(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "side\ttasks/s\tratio\tCPU µs a task\tRedis CPU µs a task\tMiB\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%.0f\t%.2f\t%.0f\t%.0f\t%.1f\t%.2f\t\n",
			r.Side, r.TasksPerSecond, r.Ratio, r.CPUMicros, r.RedisCPUMicros, r.MemoryMiB, r.MemoryRatio)
	}
	return table.Flush()
}

// pythonApp is Celery's side: the same task, which does nothing.
const pythonApp = `from celery import Celery
app = Celery("app", broker="%[1]s", backend="%[1]s")
@app.task(name="debug_task")
def debug_task():
    return None
`

// benchTasks measures one worker process, 8 tasks at once, on the same queue and
// Redis as Celery's worker with processes and with threads.
func benchTasks(ctx context.Context, progress io.Writer) (report, error) {
	folder, err := os.MkdirTemp("", "weir-bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	s, err := startStage(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer s.close()
	worker := filepath.Join(folder, "worker")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", worker, "./worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the worker: %w\n%s", err, output)
	}
	if err := os.WriteFile(filepath.Join(folder, "app.py"), fmt.Appendf(nil, pythonApp, s.url), 0o600); err != nil {
		return nil, err
	}
	celeryWorker := func(pool string) []string {
		return []string{"/usr/bin/python3", "-m", "celery", "-A", "app", "worker", "--pool", pool, "-c", concurrency,
			"-l", "INFO", "--without-gossip", "--without-mingle", "-n", "celery@bench"}
	}
	sides := []*side{
		{name: "celery prefork", tasks: 3000, ready: "ready.", command: celeryWorker("prefork")},
		{name: "celery threads", tasks: 3000, ready: "ready.", command: celeryWorker("threads")},
		{name: "weir", tasks: 40000, ready: "taking tasks", command: []string{worker, "run", "--concurrency", concurrency, "--metrics-address", "0"}},
	}
	for round := range rounds {
		for _, one := range sides {
			if err := s.measure(ctx, one); err != nil {
				return nil, fmt.Errorf("measuring %s: %w", one.name, err)
			}
			fmt.Fprintf(progress, "round %d of %d: %s %.0f tasks/s\n", round+1, rounds, one.name, one.rates[round])
		}
	}
	var rows tasksReport
	for _, one := range sides {
		r := row{Side: one.name, Rounds: rounds, TasksPerSecond: median(one.rates), CPUMicros: median(one.cpu), RedisCPUMicros: median(one.redis), MemoryMiB: median(one.memory)}
		first := r
		if len(rows) > 0 {
			first = rows[0]
		}
		r.Ratio, r.MemoryRatio = r.TasksPerSecond/first.TasksPerSecond, r.MemoryMiB/first.MemoryMiB
		rows = append(rows, r)
	}
	return rows, nil
}

// stage is the Redis of all sides.
type stage struct {
	folder string
	server *child.Process
	url    string
	client *redis.Client
	broker *celery.Broker
}

func startStage(ctx context.Context, folder string) (*stage, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	_ = listener.Close()
	s := &stage{folder: folder, url: "redis://" + address + "/0"}
	if s.server, err = child.Start(exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", folder)); err != nil {
		return nil, err
	}
	s.client = redis.NewClient(&redis.Options{Addr: address})
	if s.broker, err = celery.Open(s.url, celery.Options{}); err != nil {
		return nil, err
	}
	return s, until(ctx, "Redis answers", func() (bool, error) { return s.client.Ping(ctx).Err() == nil, nil })
}

func (s *stage) close() {
	_ = s.client.Close()
	_ = s.broker.Close()
	s.server.Kill()
}

// measure runs one side's round: the worker is started, then all of its tasks
// appear at once.
func (s *stage) measure(ctx context.Context, one *side) error {
	if err := s.client.FlushAll(ctx).Err(); err != nil {
		return err
	}
	calls := make([]celery.Signature, one.tasks)
	for i := range calls {
		calls[i] = celery.Signature{Task: noop, Queue: "staged"}
	}
	if err := s.broker.Enqueue(ctx, calls...); err != nil {
		return err
	}
	log := filepath.Join(s.folder, "log")
	output, err := os.Create(log)
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()
	command := exec.Command(one.command[0], one.command[1:]...)
	command.Dir, command.Stdout, command.Stderr = s.folder, output, output
	command.Env = append(os.Environ(), "CELERY_BROKER_URL="+s.url, "PYTHONDONTWRITEBYTECODE=1")
	worker, err := child.Start(command)
	if err != nil {
		return err
	}
	defer worker.Kill()
	if err := until(ctx, "the worker is ready", func() (bool, error) { return says(worker, log, one.ready) }); err != nil {
		return err
	}
	cpu, err := processesCPU(command.Process.Pid)
	if err != nil {
		return err
	}
	redisCPU, err := s.redisCPU()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.client.Rename(ctx, "staged", "celery").Err(); err != nil {
		return err
	}
	if err := until(ctx, "all tasks have results", func() (bool, error) { return s.results(ctx, worker, one.tasks) }); err != nil {
		return err
	}
	elapsed := time.Since(began)
	return s.note(one, command.Process.Pid, elapsed, cpu, redisCPU)
}

// results says whether so many tasks have a result. Sides keep few other keys,
// but some: what is waited for is exact, so they are counted at the end.
func (s *stage) results(ctx context.Context, worker *child.Process, tasks int) (bool, error) {
	select {
	case <-worker.Done():
		return false, errors.New("the worker ended")
	default:
	}
	pipe := s.client.Pipeline()
	waiting, held, keys := pipe.LLen(ctx, "celery"), pipe.HLen(ctx, "unacked"), pipe.DBSize(ctx)
	if _, err := pipe.Exec(ctx); err != nil {
		return false, err
	}
	if waiting.Val()+held.Val() > 0 || keys.Val() < int64(tasks) {
		return false, nil
	}
	results := 0
	iterator := s.client.Scan(ctx, 0, "celery-task-meta-*", 5000).Iterator()
	for iterator.Next(ctx) {
		results++
	}
	return results >= tasks, iterator.Err()
}

func (s *stage) note(one *side, pid int, elapsed time.Duration, cpuBefore, redisBefore float64) error {
	cpu, err := processesCPU(pid)
	if err != nil {
		return err
	}
	redisCPU, err := s.redisCPU()
	if err != nil {
		return err
	}
	memory, err := processesMemory(pid)
	if err != nil {
		return err
	}
	tasks := float64(one.tasks)
	one.rates = append(one.rates, tasks/elapsed.Seconds())
	one.cpu = append(one.cpu, (cpu-cpuBefore)*1e6/tasks)
	one.redis = append(one.redis, (redisCPU-redisBefore)*1e6/tasks)
	one.memory = append(one.memory, memory)
	return nil
}

// says looks for a text in a process's log.
func says(worker *child.Process, log, text string) (bool, error) {
	content, err := os.ReadFile(log)
	if err != nil {
		return false, err
	}
	select {
	case <-worker.Done():
		return false, fmt.Errorf("the worker ended:\n%s", content)
	default:
		return strings.Contains(string(content), text), nil
	}
}

// until polls, every few milliseconds, until something is so or ctx ends.
func until(ctx context.Context, what string, is func() (bool, error)) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		yes, err := is()
		if err != nil || yes {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("waited %v and it is not so: %s", patience, what)
}
