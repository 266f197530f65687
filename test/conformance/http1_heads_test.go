package conformance

import "strings"

// targets are request targets that are legal, if odd.
func targets() []exchange {
	var all []exchange
	for _, target := range []string{
		"/", "//", "//x//y", "/a/./b/../c", "/a%2Fb%2f..%2F", "/a%20b+c", "/%7Euser/~user", "/a;p=1/b;q", "/:@!$&'()*+,;=", "/a//",
		"/?", "/a?", "/a??b=?&c=d?", "/a?x=;y=%zz&&q=", "/a?q=%2F%3f", "/a?next=http://other.test/b?c", "/%e2%82%ac",
		"http://upstream.test/a?b", "http://upstream.test", "/http://upstream.test/a",
	} {
		all = append(all, exchange{name: "target " + strings.ReplaceAll(target, "/", "|"), request: head("GET " + target + " HTTP/1.1"), answer: ok})
	}
	return append(all,
		exchange{name: "target *", request: head("OPTIONS * HTTP/1.1"), answer: ok},
		exchange{name: "target with a port", request: answer("GET http://upstream.test:8080//a HTTP/1.1", "Host: upstream.test:8080", "X-User-ID: alice"), answer: ok},
	)
}

func requestHeads() []exchange {
	with := func(name string, lines ...string) exchange {
		return exchange{name: name, request: head("GET /a HTTP/1.1", lines...), answer: ok}
	}
	return []exchange{
		with("request fields as they were spelled", "x-lower: 1", "X-UPPER: 2", "x-Mixed_And.odd!: 3", "Accept:*/*", "ETAG: w", "Te-St:  spaces  "),
		with("request fields of the same name", "X-A: 1", "X-B: 2", "X-A: 3", "x-a: 4", "Accept: a", "Accept: b, c"),
		with("cookies on two lines", "Cookie: a=1; b=2", "Cookie: c=3"),
		with("request fields without a value", "X-Empty:", "Accept-Encoding:", "User-Agent:"),
		with("request fields of Latin and UTF-8 bytes", "X-Latin: caf\xe9", "X-Utf8: caf\xc3\xa9"),
		with("request field of 60 KiB", "X-Long: "+strings.Repeat("0123456789abcdef", 3840)),
		with("300 request fields", strings.Split(strings.Repeat("X-Many: one\n", 299)+"X-Many: last", "\n")...),
		with("what other proxies said", "Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: a", "X-Forwarded-Proto: https",
			"X-Real-IP: 192.0.2.1", "Via: 1.1 other", "Max-Forwards: 3"),
		with("credentials", "Authorization: Bearer secret", "Proxy-Authorization: Basic secret"),
		with("request without User-Agent", "Accept: */*"),
		with("conditions", `If-Match: "a", W/"b"`, "If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT", "Range: bytes=0-0,-1", "Cache-Control: no-cache", "Pragma: no-cache"),
		with("fields that Connection names", "X-Hop: 1", "Connection: keep-alive, X-Hop", "Keep-Alive: timeout=5", "X-Stays: 1"),
		with("an upgrade that is declined", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
		{name: "method of another RFC", request: head("PROPFIND /a HTTP/1.1", "Depth: 1", "Content-Length: 4") + "<a/>", answer: ok},
		{name: "method that nobody knows", request: head("M-search!~ /a HTTP/1.1"), answer: ok},
		{name: "method in lower case", request: head("get /a HTTP/1.1"), answer: ok},
		{name: "TRACE", request: head("TRACE /a HTTP/1.1"), answer: ok},
		{name: "Host last", request: answer("GET /a HTTP/1.1", "X-User-ID: alice", "Accept: */*", "Host: upstream.test"), answer: ok},
		{name: "Host with a port", request: answer("GET /a HTTP/1.1", "Host: UPSTREAM.test:8080", "X-User-ID: alice"), answer: ok},
		{name: "Host of IPv6", request: answer("GET /a HTTP/1.1", "Host: [::1]:8080", "X-User-ID: alice"), answer: ok},
		{name: "Host without a value", request: answer("GET /a HTTP/1.1", "Host:", "X-User-ID: alice"), answer: ok},
		{name: "request after empty lines", request: "\r\n\r\n" + head("GET /a HTTP/1.1"), answer: ok},
	}
}

func responseHeads() []exchange {
	with := func(name, start string, lines ...string) exchange {
		return exchange{name: name, request: head("GET /a HTTP/1.1"), answer: answer(start, append(lines, "Content-Length: 2")...) + "ok"}
	}
	return []exchange{
		with("response fields as they were spelled", "HTTP/1.1 200 OK", "x-lower: 1", "ETAG: w", "server:nginx", "x_under: 2", "WWW-authenticate: Basic"),
		with("response without Date and type", "HTTP/1.1 200 OK"),
		with("response with Date and Server", "HTTP/1.1 200 OK", "Date: Sat, 29 Oct 1994 19:43:31 GMT", "Server: the application's/1.0"),
		with("several Set-Cookie", "HTTP/1.1 200 OK", "Set-Cookie: a=1; Path=/", "X-A: 1", "set-cookie: b=2, c; HttpOnly", "Set-Cookie: a=3"),
		with("response fields without a value", "HTTP/1.1 200 OK", "X-Empty:", "Content-Type:", "Date:"),
		with("response fields of Latin and UTF-8 bytes", "HTTP/1.1 200 OK", "X-Latin: caf\xe9", "X-Utf8: caf\xc3\xa9"),
		with("response field of 60 KiB", "HTTP/1.1 200 OK", "X-Long: "+strings.Repeat("0123456789abcdef", 3840)),
		with("status without a reason", "HTTP/1.1 200 "),
		with("reason of the application's own", "HTTP/1.1 404 Nothing like that here"),
		with("status that nobody knows", "HTTP/1.1 299 Odd"),
		with("status 599", "HTTP/1.1 599 Odd"),
		with("429 of the application's own", "HTTP/1.1 429 Too Many Requests", "Retry-After: 7", "RateLimit: \"own\";r=0;t=7", "RateLimit-Policy: \"own\";q=1;w=7",
			"X-RateLimit-Remaining: 0"),
		with("502 of the application's own", "HTTP/1.1 502 Bad Gateway", "Content-Type: text/html"),
		with("challenge of a forward proxy", "HTTP/1.1 407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=\"x\""),
		with("redirect", "HTTP/1.1 302 Found", "Location: http://elsewhere.test/a b?c=%zz"),
		with("response's Connection options", "HTTP/1.1 200 OK", "Connection: X-Hop, keep-alive", "X-Hop: 1", "Keep-Alive: timeout=5", "X-Stays: 1"),
		with("alternative services", "HTTP/1.1 200 OK", "Alt-Svc: h3=\":443\"", "Strict-Transport-Security: max-age=1", "Via: 1.1 other"),
		{
			name: "early hints", request: head("GET /a HTTP/1.1"),
			answer: answer("HTTP/1.1 103 Early Hints", "Link: </a>; rel=preload", "Link: </b>") + answer("HTTP/1.1 103 Early Hints", "link: </c>") + ok,
		},
		{name: "processing", request: head("POST /a HTTP/1.1", "Content-Length: 4") + "body", answer: answer("HTTP/1.1 102 Processing") + answer("HTTP/1.1 102 Processing") + ok},
		{name: "interim status that nobody knows", request: head("GET /a HTTP/1.1"), answer: answer("HTTP/1.1 155 Odd", "X-A: 1") + ok},
		{name: "100 that nothing asked for", request: head("POST /a HTTP/1.1", "Content-Length: 4") + "body", answer: answer("HTTP/1.1 100 Continue") + ok},
	}
}

// versions are of clients and servers that speak HTTP/1.0. Towards such a client
// nothing may be in chunks.
var versions = []exchange{
	{name: "client of HTTP/1.0", request: head("GET /a HTTP/1.0"), answer: answer("HTTP/1.1 200 OK") + "body", closes: true},
	{name: "client of HTTP/1.0 and a length", request: head("GET /a HTTP/1.0"), answer: answer("HTTP/1.1 200 OK", "Content-Length: 4", "Connection: close") + "body", closes: true},
	{name: "client of HTTP/1.0 that keeps the connection", request: head("POST /a HTTP/1.0", "Connection: keep-alive", "Content-Length: 1") + "x", answer: answer("HTTP/1.1 200 OK", "Connection: keep-alive", "Content-Length: 2") + "ok"},
	{name: "server of HTTP/1.0", request: head("GET /a HTTP/1.1"), answer: answer("HTTP/1.0 200 OK", "Server: SimpleHTTP/0.6") + "body", closes: true},
	{name: "server of HTTP/1.0 and a length", request: head("GET /a HTTP/1.1"), answer: answer("HTTP/1.0 200 OK", "Content-Length: 4") + "body", closes: true},
	{name: "server of HTTP/1.0 that keeps the connection", request: head("GET /a HTTP/1.1"), answer: answer("HTTP/1.0 200 OK", "Connection: keep-alive", "Content-Length: 2") + "ok"},
}
