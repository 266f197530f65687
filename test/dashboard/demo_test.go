package dashboard

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/child"
)

var demoHint = regexp.MustCompile(`The page: (http://\S+)\n.*\n\n(\S+)\n`)

func TestDemoHeld(t *testing.T) {
	t.Parallel()
	mark := "WEIR_DEMO_OF=" + t.TempDir()
	var output lines
	command := exec.Command("make", "-C", root, "demo", "HOLD=1")
	command.Env, command.Stdout, command.Stderr = append(os.Environ(), mark), &output, &output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as of a terminal's foreground
	demo, err := child.Start(command)
	must(t, err)
	t.Cleanup(func() {
		demo.Kill()
		if t.Failed() {
			t.Logf("output of the demo:\n%s", output.String())
		}
	})
	var hint []string
	eventuallyWithin(t, 10*time.Minute, "the page is announced", func() bool { // it is compiled
		hint = demoHint.FindStringSubmatch(output.String())
		select {
		case <-demo.Done():
			t.Fatal("the demo has ended")
		default:
		}
		return hint != nil
	})
	b := (&world{t: t, page: hint[1]}).browser(t)
	b.signIn(hint[2])
	b.sees("demo · 0 * * * *")
	b.open("/limits")
	for _, service := range []string{"openai", "spotify", "steam", "youtube"} {
		b.sees(service)
	}
	b.sees("enforced")
	b.open("/limits/demo/spotify")
	b.sees("user-1")
	b.sees("Limited lately")
	b.sees("It holds for pods of its namespace that have a sidecar") // so the operator was asked
	b.picture("demo")
	b.open("/tasks?state=succeeded")
	b.sees("analyze_chat_sentiment_batch")
	b.open("/schedules/demo/sentiment")
	b.press("Run now")
	b.sees("Enqueued analyze_all_users_sentiment on personality.")

	if _, err := os.Stat("/proc/self/environ"); err == nil {
		if n := len(marked(mark)); n < 6 { // demo, page, operator, dashboard, API server, etcd
			t.Errorf("%d processes are of the demo: the watch over them does not work", n)
		}
		if open := exposed(t, marked(mark)); len(open) > 0 {
			t.Errorf("others reach the demo at %q", open)
		}
	}
	must(t, syscall.Kill(-demo.Pid(), syscall.SIGINT))
	eventually(t, "the demo ends", func() bool {
		select {
		case <-demo.Done():
			return len(marked(mark)) == 0
		default:
			return false
		}
	})
}

// marked are the processes with a variable in their environment, where there is
// /proc to look.
func marked(variable string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is right
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), variable+"\x00") {
			found = append(found, filepath.Base(filepath.Dir(file)))
		}
	}
	return found
}

// exposed are the addresses, as /proc writes them, on which processes listen for
// others than this machine.
func exposed(t *testing.T, processes []string) (open []string) {
	t.Helper()
	theirs, loopback := map[string]bool{}, 0
	for _, process := range processes {
		files, _ := filepath.Glob("/proc/" + process + "/fd/*") // the pattern is right
		for _, file := range files {
			if target, err := os.Readlink(file); err == nil {
				theirs[target] = true
			}
		}
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(table) // without IPv6 there is none
		for line := range strings.Lines(string(text)) {
			const address, state, inode, listening = 1, 3, 9, "0A"
			f := strings.Fields(line)
			switch {
			case len(f) <= inode || f[state] != listening || !theirs["socket:["+f[inode]+"]"]:
			case strings.HasPrefix(f[address], "0100007F:"), strings.HasPrefix(f[address], "00000000000000000000000001000000:"),
				strings.HasPrefix(f[address], "0000000000000000FFFF00000100007F:"):
				loopback++
			default:
				open = append(open, f[address])
			}
		}
	}
	if loopback < 3 { // the page, webhook and link
		t.Errorf("%d sockets of the demo are found", loopback)
	}
	return open
}
