// Package proxy measures what the sidecar costs a request, beside HAProxy and a
// net/http ReverseProxy, in one run on one machine, the sides in turns.
//
// All proxies listen at the sidecar's inbound port of one network namespace,
// the pod, and get captured connections there; the client is in a namespace of
// its own at the other end of a virtual cable. Behind each proxy is the same
// application, over the pod's loopback. The direct side is the client and the
// application without a proxy, over the same cable.
//
// The client is a closed loop: a connection has one request on the way. Its
// latencies hold what it itself and the application take; what a proxy adds is
// its figure less the direct one of the same round. The client, the
// application, Redis and the proxy share the machine's processors, but only the
// proxy's own CPU time is counted as its, and Redis's is told beside it.
//
// It needs Linux and root.
package proxy

// Options of a run; all have defaults.
type Options struct {
	// Rounds; 0 means 5.
	Rounds int
	// Other is another build of the sidecar, a further side.
	Other string
	// Profile is a folder for profiles of the sidecar, taken with perf after the rounds.
	Profile string
}

// The sides, but for HAProxy's: see haproxySides.
const (
	direct  = "direct"
	weir    = "weir"
	other   = "other weir"
	netHTTP = "net/http"
)

// haproxySides are HAProxy with one and two threads. The better of them is what
// others are compared with, figure by figure.
var haproxySides = []string{"haproxy, 1 thread", "haproxy, 2 threads"}

// Traffic is what becomes of the requests.
type Traffic string

// Admitted requests are far from their limit, Refused ones have exceeded it.
const (
	Admitted Traffic = "admitted"
	Refused  Traffic = "refused"
)

// many are the connections whose memory is told.
const many = 1000
