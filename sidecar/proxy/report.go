package proxy

import (
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
)

// report has the policies of a table tell the recorder.
func (t *table) report(to *report.Recorder) {
	services := make([]string, len(t.policies))
	for i, p := range t.policies {
		services[i] = p.Service
	}
	for i, recording := range to.Follow(t.namespace, services) {
		t.policies[i].recording = recording
	}
}

// count counts and reports what one of the policies did, by a decision on the
// claims.
func (c *claims) count(i int, what decision, d limiter.Decision) {
	p, take := c.policies[i], &c.takes[i]
	p.count(what)
	switch what {
	case admitted:
		p.recording.Admitted(take.Identity, take.Cost, c.withoutStore)
	case limited, observed:
		by, _ := tightest(d, i)
		p.recording.Limited(take.Identity, take.Cost, by, what == observed, c.withoutStore)
	case unavailable, uncounted:
		p.recording.Undecided()
	case bypassed, rejected:
	}
}
