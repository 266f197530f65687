package limiter

import (
	"context"
	_ "embed"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

//go:embed window.lua
var windowSource string

var windowScript = redis.NewScript(windowSource)

const (
	// slicesInBucket of a sliced log are one bucket of a Window, 50 of which are as
	// long as the window: see take.lua.
	slicesInBucket = 4
	slicesInWindow = 200
	// maxLogBytes is above what a log has: see the package's documentation.
	maxLogBytes = 16 << 10
)

var errNoLog = fmt.Errorf("%w: a key is no log of takes", ErrStore)

// Window is what the store has counted of one of a caller's limits, and when.
type Window struct {
	Limit ruleset.Limit
	// Begin of the first bucket, by the store's clock, and the length of each. The
	// last one has the present in it.
	Begin time.Time
	Step  time.Duration
	// Units that were admitted in each bucket, of 51 at most. A window after that
	// they are free.
	Units []int64
	// Reserved are those of leases that end later, which sidecars may have used or
	// not: they count from there.
	Reserved int64
}

// Windows says when what counts of a caller now was admitted, for each limit of a
// take, whose cost means nothing. It takes nothing; its errors are Take's.
func (l *Limiter) Windows(ctx context.Context, take Take) ([]Window, error) {
	quotas, err := quotasOf(nil, []Take{take})
	if err != nil {
		return nil, err
	}
	var found []Window
	err = l.within(ctx, func(ctx context.Context, b *backend) (err error) {
		found, err = b.windows(ctx, quotas)
		return err
	})
	return found, err
}

func (b *backend) windows(ctx context.Context, quotas []quota) ([]Window, error) {
	keys, now := make([]string, len(quotas)), ""
	for i := range quotas {
		keys[i] = quotas[i].key
	}
	if micros := b.clock(); micros != 0 {
		now = strconv.FormatInt(micros, 10)
	}
	reply, err := windowScript.Run(ctx, b.client, keys, now, maxLogBytes).Slice()
	if err != nil {
		return nil, b.Explain(err)
	}
	if len(reply) != 1+len(quotas) {
		return nil, fmt.Errorf("%w: %d values instead of %d from the script", ErrStore, len(reply), 1+len(quotas))
	}
	at, _ := reply[0].(int64)
	found := make([]Window, len(quotas))
	for i := range quotas {
		log, _ := reply[1+i].(string)
		if found[i], err = windowOf(quotas[i].limit, []byte(log), at); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// windowOf reads a log at a time in microseconds.
func windowOf(limit ruleset.Limit, log []byte, now int64) (Window, error) {
	units, newest, err := unitsOf(log, limit)
	if err != nil {
		return Window{}, err
	}
	now = max(now, newest) // a log's time does not run backwards
	window := limit.WindowMillis * 1000
	slice := sliceOf(limit)
	step := slicesInBucket * slice
	// A bucket has its end and not its begin in it, as a slice.
	first, last := (now-window)/step+1, (now+step-1)/step
	found := Window{
		Limit: limit, Begin: time.UnixMicro((first - 1) * step), Step: time.Duration(step) * time.Microsecond, Units: make([]int64, last-first+1),
	}
	for _, u := range units {
		switch bucket := (u.at + step - 1) / step; {
		case u.at <= now-window:
		case u.at >= now+slice:
			found.Reserved += u.units
		default:
			found.Units[min(bucket, last)-first] += u.units
		}
	}
	return found, nil
}

// placed are units of a log, and the microsecond from which they count.
type placed struct{ at, units int64 }

// unitsOf are those of a log in the order of their times, those that have left
// before the others, and the log's newest time. take.lua says how a log is made.
func unitsOf(log []byte, limit ruleset.Limit) (found []placed, newest int64, err error) {
	const (
		exactHead, entry         = 4, 19
		slicedHead, weight, tail = 8, 6, 14
	)
	switch {
	case len(log) == 0:
		return nil, 0, nil
	case log[0] == 'e' && len(log) > exactHead && (len(log)-exactHead)%entry == 0:
		before := big(log[1:4])
		for at := log[exactHead:]; len(at) > 0; at = at[entry:] {
			sum := big(at[7:10])
			newest = big(at[:7])
			found = append(found, placed{newest, (sum - before) & 0xffffff})
			before = sum
		}
		return found, newest, nil
	case log[0] == 'w' && len(log) >= slicedHead+tail && (len(log)-slicedHead-tail)%weight == 0:
		base, ending := big(log[1:8]), log[len(log)-tail:]
		entries := log[slicedHead : len(log)-tail]
		room, gone := int(ending[0])*weight, int(binary.BigEndian.Uint16(ending[1:]))*weight
		if gone+room > len(entries) {
			return nil, 0, errNoLog
		}
		slice := sliceOf(limit)
		for at := entries[gone : len(entries)-room]; len(at) > 0; at = at[weight:] {
			found = append(found, placed{(base + big(at[:2])) * slice, big(at[2:6])})
		}
		return found, big(ending[7:14]), nil
	}
	return nil, 0, errNoLog
}

// sliceOf a limit's window, in microseconds.
func sliceOf(limit ruleset.Limit) int64 {
	return (limit.WindowMillis*1000 + slicesInWindow - 1) / slicesInWindow
}

// big is a number in bytes, the most significant first.
func big(text []byte) (n int64) {
	for _, b := range text {
		n = n<<8 | int64(b)
	}
	return n
}
