package interop

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"
)

// caller is a Python program that uses Celery as an application does.
type caller struct {
	t     testing.TB
	in    io.Writer
	lines chan []byte
}

// answer of the caller: the value of an expression, or what was raised.
type answer struct {
	Value  json.RawMessage `json:"value"`
	Raised string          `json:"raised"`
	Text   string          `json:"text"`
}

// newCaller starts Python with app.py; env is added to its environment.
func newCaller(t testing.TB, url string, env ...string) *caller {
	t.Helper()
	c := &caller{t: t, lines: make(chan []byte, 16)}
	inRead, inWrite := pipe(t)
	outRead, outWrite := pipe(t)
	c.in = inWrite
	startProcess(t, "Python", inRead, outWrite, append(env, "CELERY_BROKER_URL="+url), python, "driver.py")
	_ = outWrite.Close() // the child has it: its end is the end of the lines
	go func() {
		defer close(c.lines)
		scanner := bufio.NewScanner(outRead)
		scanner.Buffer(nil, 16<<20)
		for scanner.Scan() {
			c.lines <- append([]byte(nil), scanner.Bytes()...)
		}
	}()
	if line := c.line("starting"); string(line) != "ready" {
		t.Fatalf("Python said %s instead of ready", line)
	}
	return c
}

func pipe(t testing.TB) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatalf("making a pipe: %v", err)
	}
	t.Cleanup(func() { _ = read.Close(); _ = write.Close() })
	return read, write
}

func (c *caller) line(code string) []byte {
	c.t.Helper()
	select {
	case line, open := <-c.lines:
		if !open {
			c.t.Fatalf("Python ended: %s", code)
		}
		return line
	case <-time.After(2 * patience):
		c.t.Fatalf("Python did not answer within %v: %s", 2*patience, code)
	}
	return nil
}

func (c *caller) ask(code string) answer {
	c.t.Helper()
	text, _ := json.Marshal(code)
	if _, err := c.in.Write(append(text, '\n')); err != nil {
		c.t.Fatalf("telling Python %s: %v", code, err)
	}
	var a answer
	line := c.line(code)
	if err := json.Unmarshal(line, &a); err != nil {
		c.t.Fatalf("Python answered %q to %s: %v", line, code, err)
	}
	return a
}

// value of Python code: that of its last expression.
func value[T any](c *caller, code string) T {
	c.t.Helper()
	a := c.ask(code)
	if a.Raised != "" {
		c.t.Fatalf("Python raised %s: %s in %s", a.Raised, a.Text, code)
	}
	var v T
	if err := json.Unmarshal(a.Value, &v); err != nil {
		c.t.Fatalf("Python's %s is %s: %v", code, a.Value, err)
	}
	return v
}

// raises says what Python code raises.
func (c *caller) raises(code string) (class, text string) {
	c.t.Helper()
	a := c.ask(code)
	if a.Raised == "" {
		c.t.Fatalf("want an exception, got %s from %s", a.Value, code)
	}
	return a.Raised, a.Text
}

// celeryWorker runs a real Celery worker on the queue celery, unless args name
// others, and returns when it is ready.
func celeryWorker(t testing.TB, url string, env []string, args ...string) *process {
	t.Helper()
	p := celeryCommand(t, "the Celery worker", url, env, append([]string{
		"worker", "--pool", "solo", "--without-mingle", "--without-gossip", "--loglevel", "INFO", "--hostname", "py@test",
	}, args...)...)
	p.says(" ready.")
	return p
}

// celeryCommand runs `celery` with arguments.
func celeryCommand(t testing.TB, name, url string, env []string, args ...string) *process {
	t.Helper()
	env = append(env, "CELERY_BROKER_URL="+url)
	return startProcess(t, name, nil, nil, env, python, append([]string{"-m", "celery", "-A", "app"}, args...)...)
}
