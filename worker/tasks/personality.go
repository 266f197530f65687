package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/runner"
)

// Fields of the profile that activity fills, beside traitFields.
const (
	fieldDays        = "personality_days"
	fieldThrough     = "activity_through"
	fieldSettled     = "personality_settled"
	fieldPersonality = "personality_updated_at"
)

// openDays before today, and today, still change: activities arrive late.
const openDays = 1

// personalityResult of one user.
type personalityResult struct {
	UserID string `json:"user_id"`
	// Traits by name, each from 0 to 1; null when nothing is known of the user.
	Traits map[string]float64 `json:"traits"`
	// Days with activity that the estimates rest on, over all time.
	Days int `json:"days"`
	// Through is the last of them; empty: none.
	Through string `json:"activity_through"`
	// ActivitiesRead, of all lists, from their newest on.
	ActivitiesRead int64 `json:"activities_read"`
	// Truncated: a list is longer than the activities that were read.
	Truncated bool `json:"truncated"`
	// ActivitiesCounted in this run, each once.
	ActivitiesCounted int `json:"activities_counted"`
	// ActivitiesSettled are of days that had their say before; among them those
	// that arrived too late.
	ActivitiesSettled int `json:"activities_settled"`
	// Unrecognized activities have no genre that the weighting knows.
	Unrecognized int `json:"unrecognized"`
	Duplicates   int `json:"duplicates"`
	// Skipped malformed activities by what is wrong with them.
	Skipped map[malformed]int `json:"skipped"`
	// Restarted: the profile's personality_settled was unreadable, and the
	// estimates began anew.
	Restarted bool `json:"restarted"`
}

// updatePersonality is update_personality_from_activity. Without a user it makes
// a child for each user with activity.
func (b *builtin) updatePersonality(ctx context.Context, call *runner.Call) (any, error) {
	var arguments struct {
		UserID *identifier `json:"user_id,omitempty"`
	}
	if err := call.Bind(&arguments); err != nil {
		return nil, err
	}
	if arguments.UserID == nil {
		var prefixes []string
		for _, kind := range kinds {
			prefixes = append(prefixes, activityPrefix+kind+":")
		}
		return b.forEachUser(ctx, call, activityPrefix+"*", prefixes, UpdatePersonality, nil)
	}
	user := string(*arguments.UserID)
	if err := checkUserID(user); err != nil {
		return nil, argumentError(call, "user_id", err)
	}
	result, err := b.personality(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("updating the personality of user %q: %w", user, err)
	}
	return result, nil
}

func (b *builtin) personality(ctx context.Context, user string) (*personalityResult, error) {
	now := b.now().UTC()
	before, restarted, err := b.readSettled(ctx, profilePrefix+user)
	if err != nil {
		return nil, err
	}
	result := &personalityResult{UserID: user, Restarted: restarted, Skipped: map[malformed]int{}}
	log := activityLog{now: now, through: before.Through, result: result, days: map[string]mix{}}
	for _, kind := range kinds {
		seen := map[string]bool{}
		activities := list{b.redis, activityPrefix + kind + ":" + user}
		read, truncated, err := activities.eachPage(ctx, func(page []string) (bool, error) {
			return log.add(kind, page, seen), nil
		})
		if err != nil {
			return nil, err
		}
		result.ActivitiesRead += read
		result.Truncated = result.Truncated || truncated
	}
	next, current := before.advance(log.days, day(now.AddDate(0, 0, -openDays)))
	result.Days, result.Through = current.Days, current.Through
	if current.Days == 0 {
		return result, nil // nobody's profile says that nothing is known
	}
	result.Traits = map[string]float64{}
	for i, name := range traitFields {
		result.Traits[name] = current.Traits[i]
	}
	return result, b.writePersonality(ctx, user, next, current, now)
}

// readSettled is the user's state, or the start of one.
func (b *builtin) readSettled(ctx context.Context, profile string) (state settled, restarted bool, err error) {
	start := settled{Traits: unknownTraits()}
	value, err := b.redis.HGet(ctx, profile, fieldSettled).Result()
	if errors.Is(err, redis.Nil) {
		return start, false, nil
	}
	if err != nil {
		return start, false, readError(profile, "HASH", err)
	}
	if readable := json.Unmarshal([]byte(value), &state) == nil; !readable || !state.valid() {
		return start, true, nil
	}
	return state, false, nil
}

// valid says whether the state can be ours: no estimate of ours reaches 0 or 1.
func (s settled) valid() bool {
	for _, estimate := range s.Traits {
		if !(estimate > 0 && estimate < 1) {
			return false
		}
	}
	_, err := time.Parse(time.DateOnly, s.Through)
	return s.Days >= 0 && (err == nil || s.Through == "" && s.Days == 0)
}

// writePersonality writes state and estimates at once. That two runs write one
// after the other does no harm, whichever is last: the state says itself which
// days are in it, and the next run counts the others.
func (b *builtin) writePersonality(ctx context.Context, user string, next, current settled, now time.Time) error {
	state, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encoding the state: %w", err)
	}
	fields := []any{
		fieldDays, current.Days, fieldThrough, current.Through,
		fieldSettled, string(state), fieldPersonality, now.Format(time.RFC3339),
	}
	for i, name := range traitFields {
		fields = append(fields, name, decimals(current.Traits[i]))
	}
	return b.redis.HSet(ctx, profilePrefix+user, fields...).Err() // one command, so all or nothing
}

// activityLog sorts activities by day.
type activityLog struct {
	now     time.Time
	through string // these days and earlier ones had their say
	days    map[string]mix
	result  *personalityResult
}

// add counts a page's activities. stale says that all of them are of days that
// had their say.
func (l *activityLog) add(kind string, page []string, seen map[string]bool) (stale bool) {
	read, old := 0, 0
	for _, element := range page {
		a, fault := parseActivity(element)
		if fault == "" && a.at.After(l.now) {
			fault = inFuture // it would stay the last day until its time comes
		}
		if fault != "" {
			l.result.Skipped[fault]++
			continue
		}
		read++
		date := day(a.at)
		switch {
		case date <= l.through:
			old++
			l.result.ActivitiesSettled++
		case seen[a.key]:
			l.result.Duplicates++
		default:
			seen[a.key] = true
			l.count(kind, date, a)
		}
	}
	return read > 0 && old == read
}

func (l *activityLog) count(kind, date string, a activity) {
	today := l.days[date]
	if today == nil {
		today = mix{}
	}
	if !today.add(kind, a) {
		l.result.Unrecognized++
		return
	}
	l.days[date] = today
	l.result.ActivitiesCounted++
}
