package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/sentiment"
)

// Keys of what is known of a user, each followed by the user's id.
const (
	profilePrefix = "personality:profile:"
	trendPrefix   = "personality:trend:"
)

// Fields of the profile that the chat's sentiment fills.
const (
	fieldMean      = "sentiment_mean"
	fieldLabel     = "sentiment_label"
	fieldPositive  = "sentiment_positive"
	fieldNeutral   = "sentiment_neutral"
	fieldNegative  = "sentiment_negative"
	fieldAnalyzed  = "messages_analyzed"
	fieldWindow    = "sentiment_window"
	fieldScorer    = "sentiment_scorer"
	fieldSentiment = "sentiment_updated_at"
)

// maxTrendDays are kept, the newest.
const maxTrendDays = 90

// dayTrend is a day of the trend.
type dayTrend struct {
	Mean     float64 `json:"mean"`
	Label    string  `json:"label"`
	Messages int     `json:"messages"`
	Positive int     `json:"positive"`
	Neutral  int     `json:"neutral"`
	Negative int     `json:"negative"`
}

// writeSentiment writes profile and trend in one transaction. A user who has
// neither messages nor a profile gets none.
func (b *builtin) writeSentiment(ctx context.Context, result *sentimentResult, days map[string]*tally) error {
	profile, trend := profilePrefix+result.UserID, trendPrefix+result.UserID
	// Asked before: a transaction in which one command meets a key of another
	// type does the rest of it.
	fields, err := b.redis.HLen(ctx, profile).Result()
	if err != nil {
		return readError(profile, "HASH", err)
	}
	before, err := b.redis.HGetAll(ctx, trend).Result()
	if err != nil {
		return readError(trend, "HASH", err)
	}
	if fields == 0 && result.MessagesRead == 0 {
		return nil
	}
	set, remove, err := mergeTrend(before, days)
	if err != nil {
		return err
	}
	_, err = b.redis.TxPipelined(ctx, func(transaction redis.Pipeliner) error {
		transaction.HSet(ctx, profile,
			fieldPositive, result.Positive, fieldNeutral, result.Neutral, fieldNegative, result.Negative,
			fieldAnalyzed, result.MessagesAnalyzed, fieldWindow, result.Window, fieldScorer, result.Scorer,
			fieldSentiment, result.To.Format(time.RFC3339))
		if result.Mean == nil {
			transaction.HDel(ctx, profile, fieldMean, fieldLabel)
		} else {
			transaction.HSet(ctx, profile, fieldMean, decimals(*result.Mean), fieldLabel, *result.Label)
		}
		if len(set) > 0 {
			transaction.HSet(ctx, trend, set)
		}
		if len(remove) > 0 {
			transaction.HDel(ctx, trend, remove...)
		}
		return nil
	})
	return err
}

// mergeTrend says what to set in a trend, and which days to remove. A window
// begins within a day and later leaves it: the run that saw most of a day's
// messages has the last word on it.
func mergeTrend(before map[string]string, days map[string]*tally) (set map[string]string, remove []string, err error) {
	set = map[string]string{}
	var dates []string
	for date, value := range before {
		var old dayTrend
		if _, err := time.Parse(time.DateOnly, date); err != nil || json.Unmarshal([]byte(value), &old) != nil {
			remove = append(remove, date) // not ours
			continue
		}
		dates = append(dates, date)
		if now := days[date]; now != nil && now.Messages() < old.Messages {
			delete(days, date)
		}
	}
	for date, now := range days {
		mean, _ := now.Mean()
		value, err := json.Marshal(dayTrend{mean, sentiment.Label(mean), now.Messages(), now.positive, now.neutral, now.negative})
		if err != nil {
			return nil, nil, fmt.Errorf("encoding the trend of %s: %w", date, err)
		}
		set[date] = string(value)
		dates = append(dates, date)
	}
	slices.Sort(dates)
	dates = slices.Compact(dates)
	for _, date := range dates[:max(0, len(dates)-maxTrendDays)] {
		delete(set, date)
		if _, is := before[date]; is {
			remove = append(remove, date)
		}
	}
	// What was removed as not ours may be set again.
	remove = slices.DeleteFunc(remove, func(date string) bool { return set[date] != "" })
	return set, remove, nil
}

// decimals writes a number with four decimals.
func decimals(number float64) string { return strconv.FormatFloat(number, 'f', 4, 64) }
