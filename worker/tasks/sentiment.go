package tasks

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-dev/weir/worker/runner"
	"github.com/weir-dev/weir/worker/sentiment"
)

// messagesPrefix and the user's id make the key of the user's messages.
const messagesPrefix = "chat:messages:"

// sentimentResult of one user.
type sentimentResult struct {
	UserID string `json:"user_id"`
	Window string `json:"window"`
	Scorer string `json:"scorer"`
	// From and To of the window.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// MessagesRead from the list, from its newest on.
	MessagesRead int64 `json:"messages_read"`
	// Truncated: the list is longer than the messages that were read.
	Truncated bool `json:"truncated"`
	// MessagesAnalyzed are the user's own of the window, each once.
	MessagesAnalyzed int `json:"messages_analyzed"`
	// Mean compound score and its label; null without messages.
	Mean  *float64 `json:"mean"`
	Label *string  `json:"label"`
	// Positive, Neutral and Negative messages.
	Positive int `json:"positive"`
	Neutral  int `json:"neutral"`
	Negative int `json:"negative"`
	// OtherRoles: messages of the window that the user did not write.
	OtherRoles int `json:"other_roles"`
	// Duplicates of messages of the window.
	Duplicates int `json:"duplicates"`
	// Skipped malformed messages by what is wrong with them.
	Skipped map[malformed]int `json:"skipped"`
}

// analyzeChatSentiment is analyze_chat_sentiment_batch.
func (b *builtin) analyzeChatSentiment(ctx context.Context, call *runner.Call) (any, error) {
	arguments := struct {
		UserID identifier `json:"user_id"`
		Window string     `json:"window,omitempty"`
		Scorer string     `json:"scorer,omitempty"`
	}{Window: defaultWindow, Scorer: b.defaultScorer}
	if err := call.Bind(&arguments); err != nil {
		return nil, err
	}
	user := string(arguments.UserID)
	if err := checkUserID(user); err != nil {
		return nil, argumentError(call, "user_id", err)
	}
	window, err := parseWindow(arguments.Window)
	if err != nil {
		return nil, argumentError(call, "window", err)
	}
	scorer, err := b.scorers.get(arguments.Scorer)
	if err != nil {
		return nil, argumentError(call, "scorer", err)
	}

	to := b.now().UTC()
	analysis := newAnalysis(scorer, user, to.Add(-window), to)
	result := &sentimentResult{UserID: user, Window: arguments.Window, Scorer: arguments.Scorer, From: analysis.from, To: to}
	messages := list{b.redis, messagesPrefix + user}
	result.MessagesRead, result.Truncated, err = messages.eachPage(ctx, func(page []string) (bool, error) {
		return analysis.add(ctx, page)
	})
	if err != nil {
		return nil, fmt.Errorf("analyzing the messages of user %q: %w", user, err)
	}
	analysis.fill(result)
	if err := b.writeSentiment(ctx, result, analysis.days); err != nil {
		return nil, fmt.Errorf("writing the sentiment of user %q: %w", user, err)
	}
	return result, nil
}

// analysis adds up a user's messages of a window.
type analysis struct {
	scorer   sentiment.Scorer
	user     string
	from, to time.Time

	seen       map[string]bool // keys of the window's messages
	total      tally
	days       map[string]*tally // by date
	otherRoles int
	duplicates int
	skipped    map[malformed]int
}

func newAnalysis(scorer sentiment.Scorer, user string, from, to time.Time) *analysis {
	return &analysis{
		scorer: scorer, user: user, from: from, to: to,
		seen: map[string]bool{}, days: map[string]*tally{}, skipped: map[malformed]int{},
	}
}

// add scores a page's messages of the window, from included to included. stale
// says that all its messages are older.
func (a *analysis) add(ctx context.Context, page []string) (stale bool, err error) {
	var texts, dates []string
	read, old := 0, 0
	for _, element := range page {
		m, fault := parseMessage(element)
		if fault != "" {
			a.skipped[fault]++
			continue
		}
		read++
		switch {
		case m.at.Before(a.from):
			old++
		case m.at.After(a.to): // a clock ahead of ours: the next run's
			a.skipped[inFuture]++
		case a.seen[m.key]:
			a.duplicates++
		case m.role != "user":
			a.seen[m.key] = true
			a.otherRoles++
		default:
			a.seen[m.key] = true
			texts, dates = append(texts, m.content), append(dates, day(m.at))
		}
	}
	if len(texts) > 0 {
		scores, err := a.scorer.Score(ctx, a.user, texts)
		if err != nil {
			return false, err
		}
		for i, score := range scores {
			a.total.add(score)
			if a.days[dates[i]] == nil {
				a.days[dates[i]] = &tally{}
			}
			a.days[dates[i]].add(score)
		}
	}
	return read > 0 && old == read, nil
}

func (a *analysis) fill(result *sentimentResult) {
	result.MessagesAnalyzed = a.total.Messages()
	result.Positive, result.Neutral, result.Negative = a.total.positive, a.total.neutral, a.total.negative
	result.OtherRoles, result.Duplicates, result.Skipped = a.otherRoles, a.duplicates, a.skipped
	if mean, some := a.total.Mean(); some {
		result.Mean, result.Label = &mean, new(sentiment.Label(mean))
	}
}
