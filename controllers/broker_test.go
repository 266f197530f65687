package controllers

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

func TestBrokerFollowsTheFiles(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	clock := clocktesting.NewFakePassiveClock(epoch)
	broker := &Broker{
		Files:  []BrokerFiles{{URL: file("broker-url"), CA: file("broker-ca")}, {URL: file("store-url"), Open: true}},
		Clock:  clock,
		Logger: funcr.New(func(_, line string) { log.WriteString(line + "\n") }, funcr.Options{}),
	}
	for _, step := range []struct{ reason, file, content, want string }{
		{"without a file there is no broker", "", "", ""},
		{"the store is the broker", "store-url", "redis://store:6379\n", "redis://store:6379"},
		{"a broker of its own comes first", "broker-url", "redis://:secret@broker:6379/1", "redis://:secret@broker:6379/1"},
		{"what is no URL changes nothing", "broker-url", "http://:secret@broker", "redis://:secret@broker:6379/1"},
		{"an emptied file gives way to the store", "broker-url", " ", "redis://store:6379"},
		{"a store with a password is none: namespaces would see it", "store-url", "redis://:secret@store:6379", ""},
		{"without any there is none again", "store-url", "", ""},
	} {
		if step.file != "" {
			if err := os.WriteFile(file(step.file), []byte(step.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		clock.SetTime(clock.Now().Add(brokerInterval))
		settings, err := broker.Settings()
		if settings.URL != step.want {
			t.Errorf("%s: got %q, want %q", step.reason, settings.URL, step.want)
		}
		if none := errors.Is(err, errNoBroker); none != (step.want == "") {
			t.Errorf("%s: got error %v", step.reason, err)
		}
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 || strings.Contains(log.String(), "secret") {
		t.Errorf("want one line about the URL that is none, without the password; got %s", log.String())
	}
}

// One task's queue must not silence the broker for all others, nor show them
// its name.
func TestBrokerKeepsARefusalToItsTask(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(server.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := &Broker{Files: []BrokerFiles{{URL: file}}, Clock: clocktesting.NewFakePassiveClock(epoch), Logger: logr.Discard()}
	task := func(queue string) *v1alpha1.PeriodicTask {
		return &v1alpha1.PeriodicTask{Spec: v1alpha1.PeriodicTaskSpec{Task: v1alpha1.TaskSpec{Queue: queue}}}
	}
	server.Client().HSet(t.Context(), "personality:profile:u", "a", "hash")
	_, err := broker.Look(t.Context(), task("personality:profile:u"))
	if !celery.IsRefusal(err) {
		t.Errorf("looking at a queue that is a hash: %v, want a refusal", err)
	}
	if _, err := broker.Look(t.Context(), task("q")); err != nil {
		t.Errorf("another task is told: %v", err)
	}
	if _, err := broker.Purge(t.Context(), task("q")); err != nil {
		t.Errorf("another task's deletion is told: %v", err)
	}
}

// The store's URL goes into namespaces as the broker's only if nothing in it is
// secret.
func TestHasPassword(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"redis://redis:6379/0": false, "redis://user@redis": false, "redis://:s3cret@redis": true, "redis://%zz": true,
		"redis://sentinel?master_name=m": false, "redis://sentinel?master_name=m&sentinel_password=s3cret": true,
	} {
		if got := hasPassword(text); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
