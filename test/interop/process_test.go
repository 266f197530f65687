package interop

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/child"
)

// process is a child whose output is kept, and shown when the test fails.
type process struct {
	*child.Process
	name string
	out  output
	t    testing.TB
}

// startProcess runs a program with further environment variables. The test's end
// ends it.
func startProcess(t testing.TB, name string, stdin io.Reader, stdout io.Writer, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{name: name, t: t}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdin = appDir, stdin
	cmd.Env = append(append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"), env...)
	cmd.Stdout, cmd.Stderr = stdout, &p.out
	if stdout == nil {
		cmd.Stdout = &p.out
	}
	cmd.WaitDelay = time.Second // children of Celery's keep its output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.Process, err = child.Start(cmd); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		text := p.out.String()
		if strings.Contains(text, "DATA RACE") {
			t.Errorf("%s has a data race", name)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, text[max(0, len(text)-6000):])
		}
	})
	return p
}

// says waits until the process has written a text.
func (p *process) says(text string) {
	p.t.Helper()
	eventually(p.t, patience, p.name+" says "+text, func() bool {
		select {
		case <-p.Done():
			if !strings.Contains(p.out.String(), text) {
				p.t.Fatalf("%s ended (%v) and did not say %q", p.name, p.Err(), text)
			}
		default:
		}
		return strings.Contains(p.out.String(), text)
	})
}

// ends waits for the process's end and returns its exit code.
func (p *process) ends() int {
	p.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended within %v", p.name, patience)
	}
	if exit, is := errors.AsType[*exec.ExitError](p.Err()); is {
		return exit.ExitCode()
	}
	if p.Err() != nil && !errors.Is(p.Err(), exec.ErrWaitDelay) {
		p.t.Fatalf("waiting for %s: %v", p.name, p.Err())
	}
	return 0
}

// terminate sends SIGTERM.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("terminating %s: %v", p.name, err)
	}
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// worker runs the real worker with a URL, and returns when it takes tasks.
func worker(t testing.TB, url string, args ...string) *process {
	t.Helper()
	args = append([]string{"run", "--metrics-address", "0"}, args...)
	p := startProcess(t, "the worker", nil, nil, []string{"CELERY_BROKER_URL=" + url}, workerBinary, args...)
	p.says("taking tasks")
	return p
}

// counting runs the worker whose tasks can be counted.
func counting(t testing.TB, url, who string, args ...string) *process {
	t.Helper()
	args = append([]string{"--hostname", "weir@" + cmp.Or(who, "go")}, args...)
	p := startProcess(t, "the counting worker "+who, nil, nil, []string{"CELERY_BROKER_URL=" + url}, countingBinary, args...)
	p.says("taking tasks")
	return p
}

// command runs a command of the worker to its end.
func command(t testing.TB, env []string, args ...string) (code int, out string) {
	t.Helper()
	p := startProcess(t, "worker "+args[0], nil, nil, env, workerBinary, args...)
	code = p.ends()
	return code, p.out.String()
}

// eventually waits for a condition.
func eventually(t testing.TB, limit time.Duration, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-ticker.C
	}
}
