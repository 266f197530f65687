package redisurl

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		addrs, name string
		options     redis.UniversalOptions
	}{
		"redis://host": {addrs: "host:6379", name: "host"},
		"redis://user:p%40ss@[fd00::1]:7000/3": {addrs: "[fd00::1]:7000", name: "fd00::1",
			options: redis.UniversalOptions{Username: "user", Password: "p@ss", DB: 3}},
		"rediss://default:token@host": {addrs: "host:6379", name: "host",
			options: redis.UniversalOptions{Username: "default", Password: "token"}},
		"rediss://:pass@a:7000?cluster=true&addr=b:7001&addr=[fd00::1]": {addrs: "a:7000 b:7001 [fd00::1]:6379", name: "a",
			options: redis.UniversalOptions{Password: "pass", IsClusterMode: true}},
		"redis://:pass@a/2?master_name=main&addr=b:1&sentinel_username=look&sentinel_password=s%26x": {addrs: "a:26379 b:1",
			options: redis.UniversalOptions{Password: "pass", DB: 2, MasterName: "main", SentinelUsername: "look", SentinelPassword: "s&x"}},
		"redis://host?own=1": {addrs: "host:6379", name: "host"},
	} {
		u, err := Parse("it", text, "own")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := u.Options
		if addrs := strings.Join(got.Addrs, " "); addrs != want.addrs || u.ServerName != want.name {
			t.Errorf("%s: servers %q of name %q, want %q of %q", text, addrs, u.ServerName, want.addrs, want.name)
		}
		if u.TLS != strings.HasPrefix(text, "rediss") || u.Query.Has("own") != strings.Contains(text, "own=1") {
			t.Errorf("%s: TLS %v, own parameters %v", text, u.TLS, u.Query)
		}
		w := want.options
		if got.Username != w.Username || got.Password != w.Password || got.DB != w.DB || got.IsClusterMode != w.IsClusterMode ||
			got.MasterName != w.MasterName || got.SentinelUsername != w.SentinelUsername || got.SentinelPassword != w.SentinelPassword {
			t.Errorf("%s: got %+v, want %+v", text, got, w)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"":                                       "must begin with redis://",
		"localhost:6379":                         "must begin with redis://",
		"http://:hunter2@host":                   "must begin with redis://",
		"redis://:hunter2%@host":                 "%XX",
		"redis://:hunter2@":                      "names no host",
		"redis://:hunter2@host/one":              "database number",
		"rediss://:hunter2@host?skip_verify=yes": "parameter that is not known: there are cluster, master_name, sentinel_username, sentinel_password, addr, own",
		"redis://:hunter2@host?cluster=hunter2":  "cluster parameter",
		"redis://:hunter2@host?cluster=true&addr=b/hunter2": "addr parameter",
		"redis://:hunter2@host?cluster=true&addr=":          "addr parameter",
		"redis://:hunter2@host?addr=b:1":                    "addr parameters",
		"redis://:hunter2@host/3?cluster=true":              "database",
		"redis://:hunter2@host?cluster=true&master_name=m":  "cluster=true or master_name",
		"redis://:hunter2@host?master_name=":                "master_name=NAME",
		"redis://:hunter2@host?sentinel_password=hunter2":   "master_name=NAME",
	} {
		_, err := Parse("the store's url", text, "own")
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "the store's url ") {
			t.Errorf("%s: error %v, want one that says %q", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the secret: %v", text, err)
		}
	}
}
