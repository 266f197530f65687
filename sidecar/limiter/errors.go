package limiter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

var errNoStore = fmt.Errorf("%w: no store is known yet", ErrStore)

// maxReplyBytes of a server's error that is passed on.
const maxReplyBytes = 200

// Explain says why the store did not decide, without the words of the store's
// URL. It does not wrap the client's error: that holds addresses, and whoever
// logs it should not have to know.
func (c *Connection) Explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("asking the store: %w", context.Canceled)
	}
	return fmt.Errorf("%w: %s", ErrStore, c.reason(err))
}

func (c *Connection) reason(err error) string {
	var (
		lookup    *net.DNSError
		timeout   net.Error
		errno     syscall.Errno
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		verify    *tls.CertificateVerificationError
		reply     redis.Error
	)
	switch {
	case errors.Is(err, redis.Nil): // nothing else is answered with nothing
		return "its sentinels know no master of that name; check master_name in the store's url"
	case errors.As(err, &lookup):
		return "its host name cannot be resolved; check the host in the store's url"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no answer within its timeout of %v", c.store.Timeout())
	case errors.As(err, &authority):
		return "nobody trusted signed its certificate; put its authority into the store's caBundle"
	case errors.As(err, &name):
		return "its certificate is for another host name than the store's url has"
	case errors.As(err, &verify):
		return "its certificate does not verify; check its dates and its usages"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "it closed the connection; write rediss:// in the store's url if it speaks TLS"
	case errors.As(err, &errno):
		return errno.Error() // "connection refused" and its like
	case errors.As(err, &reply) && strings.Contains(reply.Error(), "unauthenticated"):
		// What it says to a call of more than ten words.
		return "it answered: NOAUTH: it asks for a password; put it into the store's url"
	case errors.As(err, &reply) && (strings.HasPrefix(reply.Error(), "NOTIME") || strings.Contains(reply.Error(), "non deterministic")):
		// The latter is what servers before Redis 5 say to a script that writes after it.
		return "it lets no script read its clock; allow its user the command TIME, or, if that cannot be, " +
			"write clock=caller into the store's url, so that each sidecar's clock counts"
	case errors.As(err, &reply):
		text := c.redact(reply.Error())
		return "it answered: " + text[:min(len(text), maxReplyBytes)]
	}
	return c.redact(err.Error())
}

// redactor removes from a text what a store's URL holds: servers have been seen
// to repeat a command they do not know, with its arguments.
func redactor(store ruleset.Store, options *redis.UniversalOptions) func(string) string {
	var pairs []string
	secrets := []string{store.URL, options.Username, options.SentinelUsername}
	for _, password := range []string{options.Password, options.SentinelPassword} {
		secrets = append(secrets, password, url.QueryEscape(password))
	}
	for _, secret := range append(secrets, hosts(options.Addrs)...) {
		if secret != "" {
			pairs = append(pairs, secret, "***")
		}
	}
	return strings.NewReplacer(pairs...).Replace
}
