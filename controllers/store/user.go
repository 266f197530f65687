package store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// user of Redis, for one namespace and one period.
type user struct{ name, password string }

// hash is the password as Redis keeps it, so that the password itself is not
// sent to make the user.
func (u user) hash() string {
	sum := sha256.Sum256([]byte(u.password))
	return hex.EncodeToString(sum[:])
}

// in is a store as the user reaches it.
func (u user) in(shared ruleset.Store) (*ruleset.Store, error) {
	parsed, err := url.Parse(shared.URL)
	if err != nil {
		return nil, fmt.Errorf("the store's URL cannot be read") // its own words would show the password
	}
	parsed.User = url.UserPassword(u.name, u.password)
	shared.URL = parsed.String()
	return &shared, nil
}

// namer says which users there are. It is a value: the same at every replica.
type namer struct {
	// cluster is this Kubernetes cluster's, among those that may share a Redis.
	cluster string
	key     []byte
	// rotation is a period's length, in whole seconds.
	rotation time.Duration
}

// prefix of the names of all users of this cluster.
func (n namer) prefix() string { return "weir:" + n.cluster + ":" }

// user of a namespace for the period that begins at start. Its name has a
// fingerprint of the key: when the key is replaced the users are others, and
// both live until sidecars have moved.
func (n namer) user(namespace string, start time.Time) user {
	name := fmt.Sprintf("%s%s:%d-%s", n.prefix(), namespace, start.Unix(), n.derive("fingerprint", "")[:8])
	return user{name: name, password: n.derive("password", name)}
}

// period is when the period began in which now is. Namespaces change at
// different times, so that not all sidecars of a cluster turn to Redis at once.
func (n namer) period(namespace string, now time.Time) time.Time {
	seconds := int64(n.rotation / time.Second)
	sum := sha256.Sum256([]byte(namespace))
	offset := int64(binary.BigEndian.Uint64(sum[:]) % uint64(seconds))
	return time.Unix((now.Unix()-offset)/seconds*seconds+offset, 0)
}

// current and former user of a namespace.
func (n namer) users(namespace string, now time.Time) (current, former user) {
	start := n.period(namespace, now)
	return n.user(namespace, start), n.user(namespace, start.Add(-n.rotation))
}

// derive is an HMAC-SHA256 in hexadecimal.
func (n namer) derive(purpose, of string) string {
	mac := hmac.New(sha256.New, n.key)
	mac.Write([]byte(purpose + "\x00" + of))
	return hex.EncodeToString(mac.Sum(nil))
}
