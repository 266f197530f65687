package interop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

func TestDeadLettersArePutBack(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	client, env := redis.Client(), []string{"CELERY_BROKER_URL=" + redis.URL()}
	counting(t, redis.URL(), "")
	ids := value[[]string](python, `[send("flaky", "mended") for _ in range(4)]`)
	for _, id := range ids {
		if _, text := python.raises(fmt.Sprintf(`get(%q)`, id)); !strings.Contains(text, "not there") {
			t.Fatalf("the task failed with %q", text)
		}
	}
	settled(t, client)
	dead := func(want string, args ...string) {
		t.Helper()
		if code, out := command(t, env, append([]string{"dead"}, args...)...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("worker dead %s: want exit code 0 and %q, got %d and %s", strings.Join(args, " "), want, code, out)
		}
	}
	dead("4 of 4", "list")
	dead(ids[0], "list")
	dead("flaky", "list", "--limit", "1")

	dead("1 deleted", "delete", "--id", ids[0])
	if err := client.Set(t.Context(), "mended", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	dead("1 put back", "retry", "--id", ids[1])
	succeeds := func(id string) {
		t.Helper()
		// Not get(): the same process may still have the failure in its buffers.
		eventually(t, patience, "the call succeeds", func() bool {
			return value[any](python, fmt.Sprintf(`app.backend.get_task_meta(%q)["result"]`, id)) == "at last"
		})
	}
	succeeds(ids[1])
	dead("2 put back", "retry", "--all")
	succeeds(ids[2])
	succeeds(ids[3])
	dead("0 of 0", "list")
	if code, out := command(t, env, "dead", "retry"); code != 2 {
		t.Errorf("neither --id nor --all: want exit code 2, got %d and %s", code, out)
	}
}

// A message that ends every worker that runs it is set aside.
func TestCrashingCallBecomesDeadLetter(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	client := redis.Client()
	id := value[string](python, `send("hold", 1, 300)`)
	const crashes = 2
	for n := 1; n <= crashes; n++ {
		victim := counting(t, redis.URL(), "victim", "--lease", "1s", "--max-crashes", fmt.Sprint(crashes))
		eventually(t, patience, "the call runs", func() bool { return ran(t, client, "interop:begun").runs == n })
		victim.Kill()
	}
	counting(t, redis.URL(), "other", "--lease", "1s", "--max-crashes", fmt.Sprint(crashes))
	eventually(t, patience, "a dead letter", func() bool { return client.LLen(t.Context(), "weir.dead.celery").Val() == 1 })
	if letters := deadLetters(t, redis.URL()); letters[0].ID != id || letters[0].Reason != "crashed" {
		t.Errorf("want the call %s, crashed, got %+v", id, letters[0])
	}
	settled(t, client)
	if n := ran(t, client, "interop:begun").runs; n != crashes {
		t.Errorf("want it begun %d times, got %d", crashes, n)
	}
	if class, text := python.raises(fmt.Sprintf(`get(%q, timeout=3)`, id)); class != "WorkerLostError" {
		t.Errorf("want whoever waits for the result to hear of it, as WorkerLostError; got %s: %s", class, text)
	}
}
