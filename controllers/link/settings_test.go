package link

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestSettingsFollowTheFile(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "url")
	rulesets := NewRulesets(nil, certs.NewAuthorities(certs.AuthoritiesOptions{}))
	settings := &Settings{
		StoreURLFile: file, StoreTimeout: 100 * time.Millisecond, LinkAddress: "weir-link:9444",
		CABundle: func() []byte { return []byte("PEM") }, Rulesets: rulesets,
		Tracing: &ruleset.Tracing{Endpoint: "http://collector:4318", Ratio: 0.5},
		Logger:  funcr.New(func(_, line string) { log.WriteString(line) }, funcr.Options{}),
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
	if got := rulesets.Settings().Tracing; got == nil || *got != *settings.Tracing {
		t.Errorf("got tracing %+v, want the flags'", got)
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the log has the password: %s", log.String())
	}
}

func TestSettingsFollowTheRootsOfHosts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca.crt")
	url := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(url, []byte("redis://redis:6379"), 0o600); err != nil {
		t.Fatal(err)
	}
	rulesets := NewRulesets(nil, certs.NewAuthorities(certs.AuthoritiesOptions{}))
	logged := 0
	settings := &Settings{
		StoreURLFile: url, HostRootsFile: file, StoreTimeout: 100 * time.Millisecond, LinkAddress: "weir-link:9444",
		CABundle: func() []byte { return nil }, Rulesets: rulesets,
		Logger: funcr.New(func(_, _ string) { logged++ }, funcr.Options{}),
	}
	root := strings.TrimSpace(certificatePEM(t))
	for _, step := range []struct{ reason, content, want string }{
		{"what is no certificate changes nothing, and keeps the store from nobody", "typo", ""},
		{"a certificate is handed to sidecars", root + "\n", root},
		{"what is no certificate changes nothing", "typo", root},
		{"an absent file is none", "", ""},
	} {
		if step.content == "" {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(file, []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		settings.Refresh()
		settings.Refresh()
		if got := rulesets.Settings(); got.HostRoots != step.want || got.Store == nil {
			t.Errorf("%s: got %+v, want the roots %q and a store", step.reason, got, step.want)
		}
	}
	if logged != 2 {
		t.Errorf("%d lines were logged, want one for each time that the file turned bad", logged)
	}
}

// certificatePEM is some certificate.
func certificatePEM(t *testing.T) string {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}
