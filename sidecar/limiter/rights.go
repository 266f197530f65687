package limiter

import (
	"slices"
	"strconv"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// commands that a Limiter sends, and that its script calls with the rights of
// the user that sent it.
var commands = []string{
	"eval", "evalsha", "ping",
	"time", "get", "set", "setrange", "append", "pexpire",
	"hget", "hset", "hdel", "hlen",
}

// Rights are the rules of ACL SETUSER, of Redis 6 and later, for a user that
// decides on the quotas of one namespace and does nothing else. The namespace is
// a DNS label, so that nothing in it is a pattern.
func Rights(namespace string, store ruleset.Store) ([]string, error) {
	parsed, err := parseURL(store.URL)
	if err != nil {
		return nil, err
	}
	rights := []string{"~" + KeyPrefix + namespace + "/*"}
	for _, command := range commands {
		if command == "time" && callersClock(parsed) {
			continue
		}
		rights = append(rights, "+"+command)
	}
	if parsed.Options.IsClusterMode { // where the nodes are, and which has a slot that moves
		rights = append(rights, "+cluster|slots", "+asking")
	}
	if parsed.Options.DB != 0 {
		rights = append(rights, "+select|"+strconv.Itoa(parsed.Options.DB))
	}
	return slices.Clip(rights), nil
}
