package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
)

// Session is an intercepted connection: what is read from Client in clear is
// written to Upstream, and the other way round.
type Session struct {
	Client, Upstream *tls.Conn
	// Protocol is the application protocol of both (ALPN), empty for none.
	Protocol string
	// SNI is the host's name.
	SNI string

	interceptor *Interceptor
	hello       Hello
}

// Used says that the client has sent something.
func (s *Session) Used() { s.interceptor.history.used(s.SNI) }

// Unused says that the session ended without the client having sent anything,
// and what reading from Client ended with. A client that looks at the
// certificate after the handshake, and refuses it, says so or drops the
// connection. One that ends TLS in order is taken for a health check, or for a
// client that connected ahead, and counted.
func (s *Session) Unused(err error) {
	switch {
	case refused(err):
		s.interceptor.pinned(s.SNI, err)
	case s.dropped():
		s.interceptor.strike(s.SNI)
	case errors.Is(err, io.EOF):
		s.interceptor.Count(Unused)
	}
}

// dropped reports whether the client's connection has ended beneath its TLS.
func (s *Session) dropped() bool {
	g, ok := s.Client.NetConn().(*gate)
	return ok && g.dropped.Load()
}

// UpstreamEnded says what reading from Upstream ended with. Hosts that ask for
// a client's certificate only once they have seen a request break the
// connection; the next ones pass.
func (s *Session) UpstreamEnded(err error) {
	if errors.Is(err, errAsked) {
		s.interceptor.history.remember(s.SNI, ClientCertificate)
		s.interceptor.tell(s.SNI, ClientCertificate, err)
	}
}

// Intercept intercepts a connection whose ClientHello has been read; client's
// Read yields its bytes again, and dial connects to the host. It fails with
//
//   - *PassError: client is as it was, and can be relayed to the host;
//   - *UnreachableError: as above, and dial failed;
//   - *RejectedError: the client refuses the leaf;
//   - any other error: the client's handshake did not end well, or in time.
//
// client is not closed; what dial returned is, unless a Session holds it.
func (i *Interceptor) Intercept(ctx context.Context, hello Hello, client net.Conn, dial func(context.Context) (net.Conn, error)) (*Session, error) {
	session, err := i.intercept(ctx, hello, client, dial)
	outcome := outcomeOf(err)
	i.metrics.count(outcome)
	i.tell(hello.ServerName, outcome, err)
	return session, err
}

func (i *Interceptor) intercept(ctx context.Context, hello Hello, client net.Conn, dial func(context.Context) (net.Conn, error)) (*Session, error) {
	host := hello.ServerName
	if err := i.refuse(hello); err != nil {
		return nil, err
	}
	leaf, err := i.leaf(ctx, host)
	if err != nil {
		return nil, err
	}
	up, err := i.connect(ctx, hello, dial)
	if err != nil {
		return nil, err
	}
	protocol := up.ConnectionState().NegotiatedProtocol
	answered, err := i.answer(ctx, hello, client, leaf, protocol)
	if err != nil {
		_ = up.Close()
		return nil, err
	}
	hello.raw = nil // the session lives on for long
	return &Session{Client: answered, Upstream: up, Protocol: protocol, SNI: host, interceptor: i, hello: hello}, nil
}

// refuse is why a connection passes whatever the host says.
func (i *Interceptor) refuse(hello Hello) error {
	switch {
	case hello.ServerName == "":
		return &PassError{Reason: NoSNI, Err: errors.New("the client names no host")}
	case !i.Wants(hello.ServerName):
		return &PassError{Reason: Passthrough, Err: errors.New("no policy intercepts the host")}
	case hello.EarlyData:
		return &PassError{Reason: NoProtocol, Err: errors.New("the client sends early data")}
	case hello.MaxVersion < tls.VersionTLS12:
		return &PassError{Reason: NoProtocol, Err: errors.New("the client offers no TLS 1.2")}
	case len(hello.ALPN) > 0 && len(offer(hello.ALPN)) == 0:
		return &PassError{Reason: NoProtocol, Err: errors.New("the client offers other protocols than HTTP")}
	}
	if remembered := i.history.verdict(hello.ServerName); remembered != "" {
		return &PassError{Reason: remembered, Err: errors.New("seen at an earlier connection to the host")}
	}
	return nil
}

// leaf waits for the host's leaf, no longer than leafPatience.
func (i *Interceptor) leaf(ctx context.Context, host string) (*leaf, error) {
	ctx, cancel := context.WithTimeout(ctx, leafPatience)
	defer cancel()
	leaf, err := i.leaves.get(ctx, host)
	switch {
	case errors.Is(err, errUntrusted):
		return nil, &PassError{Reason: Untrusted, Err: err}
	case err != nil:
		return nil, &PassError{Reason: NoLeaf, Err: err}
	}
	return leaf, nil
}

// pinned notes a client's refusal.
func (i *Interceptor) pinned(host string, cause error) {
	i.history.remember(host, Pinned)
	i.tell(host, Pinned, cause)
}

// strike notes a connection that the client gave up after our answer.
func (i *Interceptor) strike(host string) (pinned bool) {
	pinned = i.history.strike(host)
	if pinned {
		i.tell(host, Pinned, nil)
	}
	return pinned
}

// tell logs, once a host, an outcome that somebody can do something about.
func (i *Interceptor) tell(host string, outcome Outcome, cause error) {
	if i.history.firstTime(host, outcome) {
		i.log.Warn("connections to a host are not intercepted: "+advice[outcome], "host", host, "outcome", outcome, "error", cause)
	}
}
