package controllers

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nextRun is when the CronJob comes due next; nil: never. A time that has just
// passed stays until its Job is there, or it is missed: so the status remembers
// what is waited for, over restarts of the operator too.
func (o *taskObserved) nextRun() *metav1.Time {
	times, runs := o.timetable()
	if !runs {
		return nil
	}
	if due, waits := o.overdue(times); waits && o.now.Before(due.Add(missedGrace)) {
		return o.task.Status.NextScheduleTime
	}
	return seconds(times.next(o.anchor(), o.now))
}

// missedRun is a scheduled time that has passed without a Job.
func (o *taskObserved) missedRun() (at time.Time, missed bool) {
	times, runs := o.timetable()
	if !runs {
		return time.Time{}, false
	}
	due, waits := o.overdue(times)
	return due, waits && !o.now.Before(due.Add(missedGrace))
}

// overdue is the time that the status waited for, when it has passed, is still
// on the schedule, and has no Job yet.
func (o *taskObserved) overdue(times timetable) (due time.Time, waits bool) {
	if o.task.Status.NextScheduleTime == nil {
		return time.Time{}, false
	}
	due = o.task.Status.NextScheduleTime.Time
	return due, !due.After(o.now) && o.anchor().Before(due) && times.isDue(o.anchor(), due)
}

// timetable is the CronJob's: it is the one that is obeyed.
func (o *taskObserved) timetable() (times timetable, runs bool) {
	if o.cronJob == nil || o.cronJob.Spec.Suspend != nil && *o.cronJob.Spec.Suspend {
		return timetable{}, false
	}
	zone := ""
	if o.cronJob.Spec.TimeZone != nil {
		zone = *o.cronJob.Spec.TimeZone
	}
	times, err := newTimetable(o.cronJob.Spec.Schedule, zone)
	return times, err == nil
}

// anchor is what the CronJob counts from: the last time that it obeyed, or its
// creation.
func (o *taskObserved) anchor() time.Time {
	if last := o.cronJob.Status.LastScheduleTime; last != nil {
		return last.Time
	}
	return o.cronJob.CreationTimestamp.Time
}
