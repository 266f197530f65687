package controllers

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// timetable says when a schedule comes due, as the CronJob controller does: it
// reads schedules with the same parser.
type timetable struct{ schedule cron.Schedule }

var errNeverDue = errors.New("it names no date that exists")

// leapYear has every date that exists.
var leapYear = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// newTimetable reads a schedule of five fields or a macro. Without a time zone
// it is taken to be kube-controller-manager's, which is UTC in a container.
func newTimetable(schedule, timeZone string) (timetable, error) {
	parsed, err := cron.ParseStandard(fmt.Sprintf("TZ=%s %s", cmp.Or(timeZone, "UTC"), schedule))
	if err != nil {
		return timetable{}, err
	}
	if parsed.Next(leapYear).IsZero() {
		return timetable{}, errNeverDue
	}
	return timetable{parsed}, nil
}

// next is the first time after now that the schedule comes due; what recurs
// "@every" so long is counted from anchor.
func (t timetable) next(anchor, now time.Time) time.Time {
	every, is := t.schedule.(cron.ConstantDelaySchedule)
	if !is {
		return t.schedule.Next(now)
	}
	if now.Before(anchor) {
		return anchor.Add(every.Delay)
	}
	return anchor.Add((now.Sub(anchor)/every.Delay + 1) * every.Delay)
}

// isDue says whether the schedule comes due at a time.
func (t timetable) isDue(anchor, at time.Time) bool {
	return t.next(anchor, at.Add(-time.Second)).Equal(at)
}
