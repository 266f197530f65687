package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// The command reads its environment, so these tests set it and are not parallel.

const occurrence = "enqueue --task=t --queue=q --periodic-task=ns/name --uid=uid --job=job-1"

func TestExitCodes(t *testing.T) {
	const away = "redis://:s3cret@127.0.0.1:1/0"
	for _, c := range []struct {
		reason, url, line string
		code              int
		says              string
	}{
		{"no command", "", "", exitUsage, "usage: worker COMMAND"},
		{"an unknown command", "", "walk", exitUsage, `unknown command "walk"`},
		{"help", "", "help", exitOK, "usage: worker COMMAND"},
		{"help of a command", "", "run -h", exitOK, "-concurrency"},
		{"an unknown flag", "", "run --fast", exitUsage, "-fast"},
		{"an argument that is no flag", "", "run fast", exitUsage, `unexpected argument "fast"`},
		{"no URL", "", "run", exitUsage, "CELERY_BROKER_URL is not set"},
		{"a URL that cannot be read", "amqp://:s3cret@host", "run", exitUsage, "must begin with redis://"},
		{"no concurrency", away, "run --metrics-address=0 --concurrency=0", exitUsage, "concurrency is 0"},
		{"a queue of Weir's own", away, "run --metrics-address=0 --queues=weir.running", exitUsage, "choose another"},
		{"a lease that is too short", away, "run --lease=10ms", exitUsage, "--lease"},
		{"a visibility timeout below the lease", away, "run --visibility-timeout=1s", exitUsage, "--visibility-timeout"},
		{"an unknown scorer", away, "run --scorer=tea-leaves", exitUsage, "lexicon"},
		{"no task", away, "enqueue", exitUsage, "--task"},
		{"args that are no array", away, occurrence + ` --args={}`, exitUsage, "--args is no JSON array"},
		{"kwargs that are no object", away, occurrence + ` --kwargs=[]`, exitUsage, "--kwargs is no JSON object"},
		{"a priority out of range", away, occurrence + ` --priority=10`, exitUsage, "--priority"},
		{"an unknown policy", away, occurrence + ` --concurrency-policy=Maybe`, exitUsage, "--concurrency-policy"},
		{"a negative duration", away, occurrence + ` --time-limit=-1s`, exitUsage, "--time-limit"},
		{"Redis is away", away, occurrence, exitFailed, "enqueuing the occurrence"},
		{"no dead command", away, "dead", exitUsage, "list|retry|delete"},
		{"an unknown dead command", away, "dead wake --all", exitUsage, "list, retry and delete"},
		{"dead letters of nobody's choice", away, "dead retry", exitUsage, "either --id or --all"},
		{"dead letters while Redis is away", away, "dead list", exitFailed, "reading the dead letters"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Setenv("CELERY_BROKER_URL", c.url)
			var stdout, stderr bytes.Buffer
			code := command(strings.Fields(c.line), &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String()+stderr.String(), c.says) {
				t.Errorf("exit code %d, want %d; it says %q and should say %q", code, c.code, stdout.String()+stderr.String(), c.says)
			}
			if strings.Contains(stdout.String()+stderr.String(), "s3cret") {
				t.Errorf("the password is shown: %q", stderr.String())
			}
		})
	}
}

func TestEnqueueAndDeadLetters(t *testing.T) {
	server := redistest.Start(t)
	t.Setenv("CELERY_BROKER_URL", server.URL())
	run := func(line string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := command(strings.Fields(line), &stdout, &stderr); code != exitOK {
			t.Fatalf("%s: exit code %d: %s", line, code, stderr.String())
		}
		return stdout.String()
	}
	id := celery.OccurrenceID("uid", "job-1", "")
	if said, want := run(occurrence), "enqueued t as "+id+" on q\n"; said != want {
		t.Errorf("the first pod says %q, want %q", said, want)
	}
	exact := `--task=t --queue=exact --periodic-task=ns/exact --uid=uid --job=j --args=[1.0] --kwargs={"user_id":175928847299117063}`
	run("enqueue " + exact)
	raw := server.Client().LIndex(t.Context(), "exact", 0).Val()
	if m, err := celery.Decode(raw); err != nil || string(m.Kwargs["user_id"]) != "175928847299117063" || string(m.Args[0]) != "1.0" {
		t.Errorf("the arguments are not as they were written: %s %s, error %v", m.Kwargs, m.Args, err)
	}
	if said := run(occurrence); !strings.HasPrefix(said, "done already") {
		t.Errorf("the second pod says %q", said)
	}
	if said := run(strings.Replace(occurrence, "job-1", "job-2", 1) + " --concurrency-policy=Forbid"); !strings.Contains(said, "left out: the run before, "+id) {
		t.Errorf("the next run says %q", said)
	}
	if said := run(strings.Replace(occurrence, "job-1", "job-3", 1) + " --concurrency-policy=Replace"); !strings.Contains(said, "revoked "+id) {
		t.Errorf("the run after that says %q", said)
	}
	if said := run(occurrence + " --job-uid=another"); !strings.HasPrefix(said, "enqueued") {
		t.Errorf("another Job of the same name says %q", said)
	}
	if said := run("dead list --queue q"); !strings.HasSuffix(said, "0 of 0\n") {
		t.Errorf("without dead letters the list says %q", said)
	}
	server.Client().LPush(t.Context(), "weir.dead.q", `{"id":"i","task":"t","reason":"exhausted","error":"boom\u001b[2J","at":1700000000,"message":"{}"}`)
	if said := run("dead list --queue q"); !strings.Contains(said, "exhausted") || strings.Contains(said, "\x1b") {
		t.Errorf("the list says %q, want the reason, and control characters escaped", said)
	}
	hostile := "\x1b]0;title\x07\x7f\u009b31m\u202e\u200b\U000e0041\r\n\t"
	letter, err := json.Marshal(map[string]any{"id": "h" + hostile, "task": hostile, "reason": hostile, "error": hostile, "at": 1700000000, "message": `{"a":"` + hostile + `"}`})
	if err != nil {
		t.Fatal(err)
	}
	server.Client().LPush(t.Context(), "weir.dead.q", letter)
	for _, list := range []string{"dead list --queue q", "dead list --queue q --json"} {
		said := run(list)
		if i := strings.IndexFunc(said, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s prints %q raw, in %q", list, said[i:i+1], said)
		}
		if lines := strings.Count(said, "\n"); !strings.HasSuffix(list, "json") && lines != 4 {
			t.Errorf("%s prints %d lines, want 4:\n%s", list, lines, said)
		}
	}
	var listed []celery.DeadLetter
	if err := json.Unmarshal([]byte(run("dead list --queue q --json")), &listed); err != nil || len(listed) != 2 || listed[0].Task != hostile {
		t.Errorf("the JSON says %+v, error %v", listed, err)
	}
	if said := run("dead delete --queue q --id i"); said != "1 deleted\n" {
		t.Errorf("delete says %q", said)
	}
}

type unready bool

func (u unready) Ready() bool { return !bool(u) }

func TestReadyz(t *testing.T) {
	t.Parallel()
	for worker, want := range map[unready]int{false: http.StatusOK, true: http.StatusServiceUnavailable} {
		answer := httptest.NewRecorder()
		handler(worker, nil).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		if answer.Code != want {
			t.Errorf("unready %v: /readyz answers %d, want %d", worker, answer.Code, want)
		}
	}
}

// The worker's size is the cost of everybody who runs tasks.
func TestImportsNoKubernetes(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("listing what the worker imports: %v", err)
	}
	for path := range strings.SplitSeq(string(out), "\n") {
		if strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/") || strings.HasPrefix(path, "github.com/weir-dev/weir/api") {
			t.Errorf("the worker imports %s", path)
		}
	}
}

func TestSayIsOneLine(t *testing.T) {
	t.Parallel()
	o := enqueueOptions{call: celery.Signature{Task: "t", ID: "i", Queue: "q", Expires: time.Now()}}
	for _, became := range []celery.Enqueued{celery.New, celery.Repeated, celery.Skipped, celery.Replaced} {
		if said := o.say(became, "before"); said == "" || strings.Contains(said, "\n") {
			t.Errorf("%s: %q", became, said)
		}
	}
}
