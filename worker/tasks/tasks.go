package tasks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/runner"
	"github.com/weir-dev/weir/worker/sentiment"
)

// Names of the tasks.
const (
	Debug                = "debug_task"
	AnalyzeChatSentiment = "analyze_chat_sentiment_batch"
	AnalyzeAllUsers      = "analyze_all_users_sentiment"
	UpdatePersonality    = "update_personality_from_activity"
)

// Options of the tasks.
type Options struct {
	// Redis holds the users' data: a single server, replicated or not. Not a
	// Redis Cluster, whose transactions cannot span a user's keys.
	Redis redis.Cmdable
	// Scorer is used by calls that name none; default sentiment.Lexicon.
	Scorer string
	// Getenv gives the scorers their settings; default os.Getenv.
	Getenv func(string) string
	// Now is the time; default time.Now.
	Now func() time.Time
}

// New makes the tasks. It fails when the default scorer cannot be made, so that
// a worker without its key does not start.
func New(options Options) (runner.Registry, error) {
	switch options.Redis.(type) {
	case nil:
		return nil, errors.New("the tasks need a client of the Redis that holds the users' data")
	case *redis.ClusterClient:
		return nil, errors.New("the tasks cannot use a Redis Cluster: give them a single server, or Sentinel's")
	}
	getenv := options.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	now := options.Now
	if now == nil {
		now = time.Now
	}
	b := &builtin{
		redis: options.Redis, now: now, defaultScorer: cmp.Or(options.Scorer, sentiment.Lexicon),
		scorers: scorers{getenv: getenv, made: map[string]sentiment.Scorer{}},
	}
	if _, err := b.scorers.get(b.defaultScorer); err != nil {
		return nil, fmt.Errorf("making the default scorer: %w", err)
	}
	return runner.Registry{
		Debug:                debugTask,
		AnalyzeChatSentiment: b.analyzeChatSentiment,
		AnalyzeAllUsers:      b.analyzeAllUsers,
		UpdatePersonality:    b.updatePersonality,
	}, nil
}

// builtin is what the tasks share.
type builtin struct {
	redis         redis.Cmdable
	now           func() time.Time
	defaultScorer string
	scorers       scorers
}

// scorers makes each scorer once, when it is first asked for.
type scorers struct {
	getenv func(string) string
	mu     sync.Mutex
	made   map[string]sentiment.Scorer
}

func (s *scorers) get(name string) (sentiment.Scorer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if scorer, is := s.made[name]; is {
		return scorer, nil
	}
	scorer, err := sentiment.New(name, s.getenv)
	if err != nil {
		return nil, err
	}
	s.made[name] = scorer
	return scorer, nil
}
