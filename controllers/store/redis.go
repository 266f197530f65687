package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// errRefused: the store answers, and the user of its URL may not make users, or
// it knows none.
var errRefused = errors.New("the user of the store's URL may not make users")

// servers of one store.
type servers struct {
	store ruleset.Store
	*limiter.Connection
}

// connect gives an exchange the operator's time, which is longer than a
// decision's. It dials on first use.
func connect(store ruleset.Store) (*servers, error) {
	patient := store
	patient.TimeoutMillis = exchangeTimeout.Milliseconds()
	connection, err := limiter.Connect(patient)
	if err != nil {
		return nil, err
	}
	return &servers{store: store, Connection: connection}, nil
}

// explain says why a command failed, without what is secret; it wraps errRefused
// when the store says that it may not.
func (s *servers) explain(err error) error {
	if err == nil {
		return nil
	}
	if isRefused(err) {
		return fmt.Errorf("%w: %s", errRefused, clip(s.Explain(err).Error()))
	}
	return s.Explain(err)
}

// isRefused says whether any of joined errors is Redis' refusal: no permission,
// or a server before Redis 6 or a proxy that does not know the command.
func isRefused(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(joined.Unwrap(), isRefused)
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	text := reply.Error()
	return strings.HasPrefix(text, "NOPERM") || strings.Contains(text, "unknown command") || strings.Contains(text, "unknown subcommand") ||
		strings.Contains(text, "Unknown subcommand")
}

func clip(text string) string { return text[:min(len(text), 300)] }

// probe tries on one user, who may do nothing, all that making users takes.
// errRefused: a server does not let us. Servers that do not answer are left out,
// if any does.
func (s *servers) probe(ctx context.Context, name string) error {
	var agreed atomic.Bool
	err := s.Servers(ctx, func(ctx context.Context, server *redis.Client) error {
		for _, command := range [][]any{{"ACL", "SETUSER", name, "reset"}, {"ACL", "USERS"}, {"ACL", "DELUSER", name}} {
			if err := server.Do(ctx, command...).Err(); err != nil {
				return err
			}
		}
		agreed.Store(true)
		return nil
	})
	if err = s.explain(err); errors.Is(err, errRefused) || !agreed.Load() {
		return err
	}
	return nil
}

// settled is what the servers that answered have after settle.
type settled struct {
	// holders counts, by user, the servers that have it.
	holders        map[string]int
	answered, made int
}

// everywhere says whether every server that answered has a user.
func (s *settled) everywhere(name string) bool {
	return s.answered > 0 && s.holders[name] == s.answered
}

// settle makes the users that a server lacks, and those that fresh does not have
// yet. The error is of the servers that did not do it.
func (s *servers) settle(ctx context.Context, prefix string, wanted map[string]user, rights rightsOf, fresh map[string]bool) (settled, error) {
	result := settled{holders: map[string]int{}}
	var mu sync.Mutex
	err := s.Servers(ctx, func(ctx context.Context, server *redis.Client) error {
		names, err := server.Do(ctx, "ACL", "USERS").StringSlice()
		if err != nil {
			return err
		}
		has := map[string]bool{}
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				has[name] = true
			}
		}
		var missing []string
		for name := range wanted {
			if !has[name] || !fresh[name] {
				missing = append(missing, name)
				has[name] = true
			}
		}
		if err := setUsers(ctx, server, missing, wanted, rights); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		result.answered++
		result.made += len(missing)
		for name := range has {
			result.holders[name]++
		}
		return nil
	})
	return result, s.explain(err)
}

// rightsOf are the rules of ACL SETUSER for a user.
type rightsOf func(name string) ([]string, error)

func setUsers(ctx context.Context, server *redis.Client, names []string, users map[string]user, rights rightsOf) error {
	if len(names) == 0 {
		return nil
	}
	_, err := server.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, name := range names {
			rules, err := rights(name)
			if err != nil {
				return err
			}
			command := []any{"ACL", "SETUSER", name, "reset", "on", "#" + users[name].hash()}
			pipe.Do(ctx, append(command, words(rules)...)...)
		}
		return nil
	})
	return err
}

// remove deletes users, which ends their connections.
func (s *servers) remove(ctx context.Context, names []string) error {
	command := append([]any{"ACL", "DELUSER"}, words(names)...)
	return s.explain(s.Servers(ctx, func(ctx context.Context, server *redis.Client) error {
		return server.Do(ctx, command...).Err()
	}))
}

func words(texts []string) []any {
	words := make([]any, len(texts))
	for i, text := range texts {
		words[i] = text
	}
	return words
}

// evictions is the maxmemory-policy of the first server found that would forget
// what was counted; empty when none would, or none says.
func (s *servers) evictions(ctx context.Context) string {
	var mu sync.Mutex
	var policy string
	_ = s.Servers(ctx, func(ctx context.Context, server *redis.Client) error {
		memory, err := server.Info(ctx, "memory").Result()
		for line := range strings.Lines(memory) {
			found, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
			if ok && found != "" && found != "noeviction" {
				mu.Lock()
				policy = found
				mu.Unlock()
			}
		}
		return err
	})
	return policy
}
