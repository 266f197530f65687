package conformance

import "testing"

// Over IPv6 all is as over IPv4: some of each kind of conversation shows it.
func TestIPv6(t *testing.T) {
	t.Parallel()
	some := named(append(exchanges(), http1Dialogues...), "request with trailers", "response of megabytes in chunks", "early hints", "pipelined requests", "100-continue")
	some = append(some, named(http1Ends(), "client that ends its half after the request", "answer cut short")...)
	some = append(some, named(tunnels(), "upgrade, the client ends first", "WebSocket", "CONNECT, the server ends first")...)
	some = append(some, named(tcp(), "server that speaks first", "bytes both ways, the client ends first")...)
	var six []way
	for _, w := range ways {
		six = append(six, over6(w))
	}
	t.Run("HTTP1 and TCP", func(t *testing.T) { t.Parallel(); compare(t, six, some, (*message).verbatim) })
	t.Run("HTTP2", func(t *testing.T) {
		t.Parallel()
		compare(t, six, named(append(http2Exchanges(), http2Dialogues...), "request with trailers", "response of megabytes", "bodies both ways at once"), nil)
	})
}
