package tasks

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
)

const (
	// scanCount is a hint: how many keys Redis looks at in a step.
	scanCount = 1000
	// enqueueChunk children are enqueued at once.
	enqueueChunk = 500
	// maxChildrenListed ids are in a result; Users says how many there are.
	maxChildrenListed = 10_000
)

// fanOutResult of a task that makes one child for each user.
type fanOutResult struct {
	// Users found, each of which got one child.
	Users int `json:"users"`
	// Children are the children's ids, the first 10,000.
	Children []string `json:"children"`
	// ChildrenTruncated: there are more children than are listed.
	ChildrenTruncated bool `json:"children_truncated"`
	// SkippedUsers have ids that no task takes: too long, or with control
	// characters.
	SkippedUsers int `json:"skipped_users"`
}

// analyzeAllUsers is analyze_all_users_sentiment.
func (b *builtin) analyzeAllUsers(ctx context.Context, call *runner.Call) (any, error) {
	var arguments struct {
		Window string `json:"window,omitempty"`
		Scorer string `json:"scorer,omitempty"`
	}
	if err := call.Bind(&arguments); err != nil {
		return nil, err
	}
	// What is not given is not passed on either: children follow the defaults of
	// the worker that runs them. What is given is checked here, once.
	kwargs := map[string]any{}
	if arguments.Window != "" {
		if _, err := parseWindow(arguments.Window); err != nil {
			return nil, argumentError(call, "window", err)
		}
		kwargs["window"] = arguments.Window
	}
	if arguments.Scorer != "" {
		if _, err := b.scorers.get(arguments.Scorer); err != nil {
			return nil, argumentError(call, "scorer", err)
		}
		kwargs["scorer"] = arguments.Scorer
	}
	return b.forEachUser(ctx, call, messagesPrefix+"*", []string{messagesPrefix}, AnalyzeChatSentiment, kwargs)
}

// forEachUser enqueues a task for each user who has a key of one of the
// prefixes, all of which pattern matches. A retry enqueues nobody twice: a
// child's id follows from the call's and the user's.
func (b *builtin) forEachUser(ctx context.Context, call *runner.Call, pattern string, prefixes []string, task string, kwargs map[string]any) (any, error) {
	result := &fanOutResult{Children: []string{}}
	var chunk []runner.Child
	enqueue := func() error {
		ids, err := call.Enqueue(ctx, chunk...)
		if err != nil {
			return err
		}
		result.Users += len(ids)
		listed := min(len(ids), maxChildrenListed-len(result.Children))
		result.Children = append(result.Children, ids[:listed]...)
		chunk = chunk[:0]
		return nil
	}
	err := eachUser(ctx, b.redis, pattern, prefixes, func(user string) error {
		if valid := checkUserID(user) == nil; !valid {
			result.SkippedUsers++
			return nil
		}
		arguments := map[string]any{"user_id": user}
		for name, value := range kwargs {
			arguments[name] = value
		}
		chunk = append(chunk, runner.Child{Key: user, Signature: celery.Signature{Task: task, Kwargs: arguments}})
		if len(chunk) < enqueueChunk {
			return nil
		}
		return enqueue()
	})
	if err == nil && len(chunk) > 0 {
		err = enqueue()
	}
	if err != nil {
		return nil, fmt.Errorf("after %d users: %w", result.Users, err)
	}
	result.ChildrenTruncated = result.Users > len(result.Children)
	return result, nil
}

// eachUser visits each user who has a key once: SCAN can return a key twice, and
// a user can have several. It holds the ids of all users, some 100 bytes each.
func eachUser(ctx context.Context, client redis.Cmdable, pattern string, prefixes []string, visit func(user string) error) error {
	seen := map[string]bool{}
	var cursor uint64
	for {
		keys, next, err := client.Scan(ctx, cursor, pattern, scanCount).Result()
		if err != nil {
			return fmt.Errorf("scanning for %s: %w", pattern, err)
		}
		for _, key := range keys {
			for _, prefix := range prefixes {
				user, is := strings.CutPrefix(key, prefix)
				if !is || seen[user] {
					continue
				}
				seen[user] = true
				if err := visit(user); err != nil {
					return err
				}
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
