package celery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weir-dev/weir/redisurl"
)

const (
	// DefaultTimeout of one exchange with Redis.
	DefaultTimeout = 5 * time.Second
	// DefaultVisibilityTimeout is Celery's: after it a taken message is put back.
	DefaultVisibilityTimeout = time.Hour
	// maxCABytes bounds the file that ssl_ca_certs names.
	maxCABytes = 1 << 20
)

// go-redis would write lines of its own to stderr, of what errors say anyway.
func init() { logging.Disable() }

// Options of a broker. The zero value is good.
type Options struct {
	// CABundle is PEM to verify a rediss:// server with, beside the system's
	// roots and the file that the URL's ssl_ca_certs names.
	CABundle []byte
	// Timeout of one exchange; DefaultTimeout when zero.
	Timeout time.Duration
	// KeyPrefix is Celery's global_keyprefix.
	KeyPrefix string
	// PoolSize is the number of connections, at most; 16 when zero.
	PoolSize int
	// VisibilityTimeout must be what Celery workers of the same Redis have;
	// DefaultVisibilityTimeout when zero.
	VisibilityTimeout time.Duration
}

// Broker is a Redis that holds queues and results. It connects on first use.
type Broker struct {
	client  *redis.Client
	options *redis.UniversalOptions
	keys    keys
	// visibility is the visibility timeout.
	visibility time.Duration
	redact     *strings.Replacer
}

// Open reads the URL: redis://[user:password@]host:port[/db], rediss:// for
// verified TLS, with ssl_cert_reqs=none not to verify and ssl_ca_certs=FILE for
// more authorities, both as Celery writes them; for Sentinel as package redisurl
// says. Errors never hold the URL: it is a secret.
func Open(text string, o Options) (*Broker, error) {
	options, err := parseURL(text, o.CABundle)
	if err != nil {
		return nil, err
	}
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	options.ContextTimeoutEnabled = true
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = timeout, timeout, timeout, timeout
	options.PoolSize = 16
	if o.PoolSize > 0 {
		options.PoolSize = o.PoolSize
	}
	options.PipelinePoolSize = -1
	// A command is tried four times anyway: dialing five times for each would
	// hide for 100 s that a silent network leads nowhere.
	options.DialerRetries = 1
	// A plain handshake, which old servers and embedded ones understand.
	options.Protocol = 2
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	b := &Broker{options: options, keys: keys{o.KeyPrefix}, visibility: o.VisibilityTimeout, redact: redactor(options)}
	if b.visibility <= 0 {
		b.visibility = DefaultVisibilityTimeout
	}
	b.client = b.newClient(options)
	return b, nil
}

func (b *Broker) newClient(options *redis.UniversalOptions) *redis.Client {
	if options.MasterName != "" {
		return redis.NewFailoverClient(options.Failover())
	}
	return redis.NewClient(options.Simple())
}

// dedicated is a client of its own, for calls that wait in Redis for up to wait.
func (b *Broker) dedicated(connections int, wait time.Duration) *redis.Client {
	options := *b.options
	options.PoolSize = connections
	options.ReadTimeout = wait + options.WriteTimeout
	options.MaxRetries = -1
	return b.newClient(&options)
}

// Client is the connection itself, for tasks that keep their data in the same
// Redis. Its keys have no prefix.
func (b *Broker) Client() *redis.Client { return b.client }

// Close ends all connections.
func (b *Broker) Close() error { return b.client.Close() }

// Ping asks whether Redis answers.
func (b *Broker) Ping(ctx context.Context) error {
	return b.explain("asking Redis", b.client.Ping(ctx).Err())
}

// explain says what was being done, without addresses and passwords.
func (b *Broker) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &brokerError{doing: doing, text: b.redact.Replace(err.Error()), err: err}
}

type brokerError struct {
	doing, text string
	err         error
}

func (e *brokerError) Error() string { return e.doing + ": " + e.text }
func (e *brokerError) Unwrap() error { return e.err }

// redactor takes the servers and the credentials out of errors.
func redactor(options *redis.UniversalOptions) *strings.Replacer {
	var pairs []string
	for _, secret := range []string{options.Password, options.SentinelPassword} {
		if secret != "" {
			pairs = append(pairs, secret, "***")
		}
	}
	for _, address := range options.Addrs {
		pairs = append(pairs, address, "redis")
		if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
			pairs = append(pairs, host, "redis")
		}
	}
	return strings.NewReplacer(pairs...)
}

func parseURL(text string, caBundle []byte) (*redis.UniversalOptions, error) {
	// clock is the limiter's, whose store may be the broker too.
	u, err := redisurl.Parse("the broker's URL", text, "ssl_cert_reqs", "ssl_ca_certs", "clock")
	if err != nil {
		return nil, err
	}
	options := &u.Options
	if options.IsClusterMode {
		return nil, errors.New("the broker's URL names a Redis Cluster, which Celery's protocol cannot use: give queues a single Redis, or one behind Sentinel (master_name=NAME)")
	}
	options.TLSConfig, err = tlsConfig(u, caBundle)
	return options, err
}

// tlsConfig is nil for redis://.
func tlsConfig(u *redisurl.URL, caBundle []byte) (*tls.Config, error) {
	query := u.Query
	if !u.TLS {
		if query.Has("ssl_cert_reqs") || query.Has("ssl_ca_certs") {
			return nil, errors.New("the broker's URL has ssl parameters, but redis:// is not protected: write rediss://")
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.ServerName}
	switch reqs := query.Get("ssl_cert_reqs"); reqs {
	case "", "required", "CERT_REQUIRED":
	case "none", "CERT_NONE":
		config.InsecureSkipVerify = true //nolint:gosec // the URL says so, in Celery's words
	default:
		return nil, errors.New("the broker's URL has an ssl_cert_reqs that is neither required nor none")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if file := query.Get("ssl_ca_certs"); file != "" {
		pem, err := readBounded(file)
		if err != nil {
			return nil, fmt.Errorf("reading the file that ssl_ca_certs of the broker's URL names: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("the file that ssl_ca_certs of the broker's URL names holds no certificate: want PEM, -----BEGIN CERTIFICATE-----")
		}
	}
	if len(caBundle) > 0 && !roots.AppendCertsFromPEM(caBundle) {
		return nil, errors.New("the broker's authorities hold no certificate: want PEM, -----BEGIN CERTIFICATE-----")
	}
	config.RootCAs = roots
	return config, nil
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCABytes {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", file, info.Size(), maxCABytes)
	}
	return os.ReadFile(file)
}
