package proxy

import (
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// BenchmarkRequest compares one small request through the proxy with the same
// one sent directly. The two alternate within the same run, so that whatever
// else the machine does meets both.
func BenchmarkRequest(b *testing.B) {
	upstream := application(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	limited := basic("p", inbound(func(p *ruleset.Policy) {
		p.Limits = []ruleset.Limit{{Requests: 10_000, WindowMillis: 1000}}
	}))
	for _, c := range []struct {
		name      string
		protocols func(*http.Protocols)
		policies  []ruleset.Policy
	}{
		{"http1/unmatched", http1, nil},
		{"http1/limited", http1, []ruleset.Policy{limited}},
		{"http2/unmatched", http2, nil},
		{"http2/limited", http2, []ruleset.Policy{limited}},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := serve(b, ruleset.Inbound, upstream, c.policies...)
			through := h.client(c.protocols)
			direct := (&house{t: b, addr: upstream.(*net.TCPAddr).String()}).client(c.protocols)
			var durations [2][]time.Duration
			b.ReportAllocs()
			for b.Loop() {
				for i, client := range []*http.Client{through, direct} {
					start := time.Now()
					do(b, client, ask(b, http.MethodGet, "http://app/", nil, "X-User-ID", "alice"))
					durations[i] = append(durations[i], time.Since(start))
				}
			}
			for i, name := range []string{"proxied", "direct"} {
				slices.Sort(durations[i])
				at := func(q float64) float64 {
					return float64(durations[i][int(q*float64(len(durations[i])-1))].Microseconds())
				}
				b.ReportMetric(at(0.5), name+"-p50-µs")
				b.ReportMetric(at(0.99), name+"-p99-µs")
			}
		})
	}
}
