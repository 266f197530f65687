package link

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/weir-dev/weir/controllers/certs"
)

func TestSettingsFollowTheFile(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "url")
	rulesets := NewRulesets(nil, certs.NewAuthorities(certs.AuthoritiesOptions{}))
	settings := &Settings{
		StoreURLFile: file, StoreTimeout: 100 * time.Millisecond, LinkAddress: "weir-link:9444",
		CABundle: func() []byte { return []byte("PEM") }, Rulesets: rulesets,
		Logger: funcr.New(func(_, line string) { log.WriteString(line) }, funcr.Options{}),
	}
	for _, step := range []struct{ reason, content, want string }{
		{"without a file there is no store", "", ""},
		{"a file that appears is read", "redis://:secret@redis:6379\n", "redis://:secret@redis:6379"},
		{"what is no URL of Redis changes nothing", "http://:secret@redis:6379", "redis://:secret@redis:6379"},
		{"what is no URL at all changes nothing", "redis://:secret@red is:%zz", "redis://:secret@redis:6379"},
		{"an edit is obeyed", "rediss://redis:6380", "rediss://redis:6380"},
	} {
		if step.content != "" {
			if err := os.WriteFile(file, []byte(step.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		settings.Refresh()
		got := ""
		if store := rulesets.Settings().Store; store != nil {
			got = store.URL
		}
		if got != step.want {
			t.Errorf("%s: got %q, want %q", step.reason, got, step.want)
		}
	}
	if rulesets.Settings().Link.CABundle != "PEM" {
		t.Errorf("got link %+v", rulesets.Settings().Link)
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the log has the password: %s", log.String())
	}
}
