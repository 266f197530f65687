package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/runner"
)

// Bounds of reading a list.
const (
	// pageElements are read at once.
	pageElements = 200
	// maxElements of a list are read, the newest.
	maxElements = 100_000
	// stalePages in a row with nothing new enough end the reading. One might be
	// a burst of messages that arrived late.
	stalePages = 2
	// maxElementBytes of JSON are parsed; a longer element is malformed.
	maxElementBytes = 256 << 10
	// probeElements are looked at on either end to see which is the newer.
	probeElements = 20
)

// list is a Redis LIST of JSON records with times, pushed at either end.
type list struct {
	redis redis.Cmdable
	key   string
}

// eachPage gives visit the newest elements first, a page at a time, until it
// said stalePages times in a row that all it saw is too old, or until
// maxElements. It returns how many it read, and whether maxElements ended it.
//
// Pages are counted from the end where nobody pushes, so that elements pushed
// meanwhile shift none. Where somebody trims that end, a page can repeat
// elements, never the reader's business: records are told apart by their ids.
func (l list) eachPage(ctx context.Context, visit func(page []string) (stale bool, err error)) (read int64, truncated bool, err error) {
	length, err := l.redis.LLen(ctx, l.key).Result()
	if err != nil || length == 0 {
		return 0, false, readError(l.key, "LIST", err)
	}
	newestAtHead, err := l.newestAtHead(ctx)
	if err != nil {
		return 0, false, err
	}
	stale := 0
	for read < length {
		if read >= maxElements {
			return read, true, nil
		}
		count := min(pageElements, length-read, maxElements-read)
		first := length - read - count // from the tail back, counted from the head
		if newestAtHead {
			first = read - length // from the head on, counted from the tail
		}
		page, err := l.redis.LRange(ctx, l.key, first, first+count-1).Result()
		if err != nil {
			return read, false, readError(l.key, "LIST", err)
		}
		old, err := visit(page)
		if err != nil {
			return read, false, err
		}
		read += count
		if stale++; !old {
			stale = 0
		}
		if stale == stalePages {
			return read, false, nil
		}
	}
	return read, false, nil
}

// newestAtHead compares the times at both ends: LPUSH leaves the newest at the
// head, RPUSH, which is assumed where one end says nothing, at the tail.
func (l list) newestAtHead(ctx context.Context) (bool, error) {
	head, err := l.redis.LRange(ctx, l.key, 0, probeElements-1).Result()
	if err != nil {
		return false, readError(l.key, "LIST", err)
	}
	tail, err := l.redis.LRange(ctx, l.key, -probeElements, -1).Result()
	if err != nil {
		return false, readError(l.key, "LIST", err)
	}
	var first, last time.Time
	for _, element := range head {
		if at, is := elementTime(element); is {
			first = at
			break
		}
	}
	for _, element := range tail { // the last that has a time
		if at, is := elementTime(element); is {
			last = at
		}
	}
	return !last.IsZero() && first.After(last), nil
}

func elementTime(element string) (time.Time, bool) {
	var record struct {
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if len(element) > maxElementBytes || json.Unmarshal([]byte(element), &record) != nil {
		return time.Time{}, false
	}
	return parseTimestamp(record.Timestamp)
}

// readError tells what cannot get better by a retry: a key of another type.
func readError(key, kind string, err error) error {
	switch {
	case err == nil:
		return nil
	case strings.HasPrefix(err.Error(), "WRONGTYPE"):
		return runner.Permanent(fmt.Errorf("%s is no %s: something else wrote this key; rename or delete it", key, kind))
	}
	return fmt.Errorf("reading %s: %w", key, err)
}
