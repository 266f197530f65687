package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
)

// The application protocols that an intercepted connection may have.
const (
	protocolHTTP1 = "http/1.1"
	protocolHTTP2 = "h2"
)

// offer is what of a client's offer is made to the host, in its order.
func offer(alpn []string) []string {
	var offered []string
	for _, protocol := range alpn {
		if (protocol == protocolHTTP1 || protocol == protocolHTTP2) && !slices.Contains(offered, protocol) {
			offered = append(offered, protocol)
		}
	}
	return offered
}

// errAsked aborts a handshake, also a later one, in which the host asks for a certificate.
var errAsked = errors.New("the host asks for a client's certificate")

// Connect makes a further TLS connection to the host, for what the first can
// carry no longer.
func (s *Session) Connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*tls.Conn, error) {
	return s.interceptor.connect(ctx, s.hello, dial)
}

// connect makes the TLS connection to the host.
func (i *Interceptor) connect(ctx context.Context, hello Hello, dial func(context.Context) (net.Conn, error)) (*tls.Conn, error) {
	roots, err := i.roots.Load().pool()
	if err != nil {
		return nil, &PassError{Reason: Unverified, Err: err}
	}
	raw, err := dial(ctx)
	if err != nil {
		return nil, &UnreachableError{Err: err}
	}
	up := tls.Client(raw, &tls.Config{
		ServerName:         hello.ServerName,
		NextProtos:         offer(hello.ALPN),
		RootCAs:            roots,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: i.tickets,
		// TLS 1.2 may ask for a certificate once it has seen the request: errAsked
		// then comes from Read.
		Renegotiation: tls.RenegotiateFreelyAsClient,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return nil, errAsked
		},
	})
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := up.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // without a word: an alert of ours is nobody's
		return nil, i.hostFailed(hello.ServerName, err)
	}
	return up, nil
}

// hostFailed says what a failed handshake with the host means.
func (i *Interceptor) hostFailed(host string, err error) error {
	reason := NoProtocol
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		reason = Unverified
	}
	if errors.Is(err, errAsked) {
		reason = ClientCertificate
		i.history.remember(host, reason)
	}
	return &PassError{Reason: reason, Err: fmt.Errorf("handshake with the host: %w", err)}
}
