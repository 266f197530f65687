package controllers

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestBrokerFollowsTheFiles(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	clock := clocktesting.NewFakePassiveClock(epoch)
	broker := &Broker{
		Files:  []BrokerFiles{{URL: file("broker-url"), CA: file("broker-ca")}, {URL: file("store-url")}},
		Clock:  clock,
		Logger: funcr.New(func(_, line string) { log.WriteString(line + "\n") }, funcr.Options{}),
	}
	for _, step := range []struct{ reason, file, content, want string }{
		{"without a file there is no broker", "", "", ""},
		{"the store is the broker", "store-url", "redis://store:6379\n", "redis://store:6379"},
		{"a broker of its own comes first", "broker-url", "redis://:secret@broker:6379/1", "redis://:secret@broker:6379/1"},
		{"what is no URL changes nothing", "broker-url", "http://:secret@broker", "redis://:secret@broker:6379/1"},
		{"an emptied file gives way to the store", "broker-url", " ", "redis://store:6379"},
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
