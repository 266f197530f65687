package controllers

import (
	"errors"
	"testing"
	"time"
	_ "time/tzdata" // as in the operator's image
)

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestNextIsWhenCronComesDue(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason, schedule, zone string
		anchor, now, want      string
	}{
		{"without a zone it is UTC", "0 9 * * *", "", "2026-01-01T00:00:00Z", "2026-01-01T08:59:59Z", "2026-01-01T09:00:00Z"},
		{"a time that is now comes due again later", "0 9 * * *", "", "2026-01-01T00:00:00Z", "2026-01-01T09:00:00Z", "2026-01-02T09:00:00Z"},
		{"a zone of half hours", "0 9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T03:30:00Z"},
		{"winter in New York", "30 9 * * *", "America/New_York", "2026-01-01T00:00:00Z", "2026-03-07T00:00:00Z", "2026-03-07T14:30:00Z"},
		{"summer in New York", "30 9 * * *", "America/New_York", "2026-01-01T00:00:00Z", "2026-03-08T00:00:00Z", "2026-03-08T13:30:00Z"},
		{"an hour that the spring leaves out comes due the day after", "30 2 * * *", "America/New_York", "2026-01-01T00:00:00Z", "2026-03-08T00:00:00Z", "2026-03-09T06:30:00Z"},
		{"hourly goes on through the autumn", "0 * * * *", "America/New_York", "2026-01-01T00:00:00Z", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"},
		{"the 29th of February", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"an interval counts from its anchor", "@every 90m", "", "2026-01-01T00:10:00Z", "2026-01-01T02:00:00Z", "2026-01-01T03:10:00Z"},
		{"an interval before its anchor", "@every 90m", "", "2026-01-01T00:10:00Z", "2026-01-01T00:00:00Z", "2026-01-01T01:40:00Z"},
		{"a macro", "@weekly", "", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
	} {
		times, err := newTimetable(test.schedule, test.zone)
		if err != nil {
			t.Errorf("%s: %v", test.reason, err)
			continue
		}
		got := times.next(at(test.anchor), at(test.now))
		if !got.Equal(at(test.want)) {
			t.Errorf("%s: got %v, want %s", test.reason, got.UTC(), test.want)
		}
		if !times.isDue(at(test.anchor), got) || times.isDue(at(test.anchor), got.Add(time.Second)) {
			t.Errorf("%s: want %v, and not the second after it, on the schedule", test.reason, got)
		}
	}
}

func TestASchedulesTroubleIsNamed(t *testing.T) {
	t.Parallel()
	for _, schedule := range []string{"99 * * * *", "* * *", "@never", "a * * * *", "@every soon"} {
		if _, err := newTimetable(schedule, ""); err == nil {
			t.Errorf("%q: got no error", schedule)
		}
	}
	if _, err := newTimetable("0 0 31 4 *", ""); !errors.Is(err, errNeverDue) {
		t.Errorf("the 31st of April: got %v, want %v", err, errNeverDue)
	}
}
