package limiter

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weir-dev/weir/redisurl"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// poolSize is the number of connections to a Redis server, at most.
	poolSize = 50
	// bufferBytes of a connection, each way: a script call and its reply fit.
	bufferBytes = 4 << 10
	// maxTimeout of a store.
	maxTimeout = time.Minute
	// sentinelPatience is how many timeouts a dial behind Sentinel may take.
	sentinelPatience = 8
)

// clientOptions reads a store. Its errors name the field and never hold what
// is in it: the URL is a secret.
func clientOptions(store ruleset.Store, parsed *redisurl.URL) (options *redis.UniversalOptions, err error) {
	if timeout := store.Timeout(); timeout <= 0 || timeout > maxTimeout {
		return nil, fmt.Errorf("the store's timeoutMillis is %d: write a number from 1 to %d",
			store.TimeoutMillis, maxTimeout.Milliseconds())
	}
	options = &parsed.Options
	if options.TLSConfig, err = tlsConfig(store, parsed); err != nil {
		return nil, err
	}
	timeout := store.Timeout()
	options.ContextTimeoutEnabled = true // without it a call may outlive its context
	options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = timeout, timeout, timeout
	// A dial goes on behind the call that began it, whose context bounds the
	// call: a handshake slower than one decision still serves the next.
	options.DialTimeout = max(timeout, time.Second)
	if options.MasterName != "" {
		// The client asks a sentinel that is silent two times three times before it
		// asks the others, within the time of one dial.
		options.DialTimeout = max(sentinelPatience*timeout, time.Second)
	}
	options.DialerRetries = 1 // the next call dials again
	options.MaxRetries = 2    // a connection that the server closed, and the one after it
	options.MinRetryBackoff, options.MaxRetryBackoff = time.Millisecond, max(timeout/10, time.Millisecond)
	options.PoolSize = poolSize
	options.ReadBufferSize, options.WriteBufferSize = bufferBytes, bufferBytes
	options.PipelinePoolSize = -1 // pipelines are rare: they use the others
	// RESP 2 and a plain handshake: nothing that old servers, proxies and
	// embedded ones do not know, and nothing pushed.
	options.Protocol = 2
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return options, nil
}

// clockParameter of a store's URL says whose time its logs have: with the value
// "caller" each sidecar's own, else the server's.
const clockParameter = "clock"

// parseURL reads the store's URL.
func parseURL(text string) (*redisurl.URL, error) {
	parsed, err := redisurl.Parse("the store's url", text, clockParameter)
	if err == nil && parsed.Query.Has(clockParameter) && !callersClock(parsed) {
		err = errors.New("the store's url has a clock parameter that is not caller")
	}
	return parsed, err
}

func callersClock(parsed *redisurl.URL) bool { return parsed.Query.Get(clockParameter) == "caller" }

// tlsConfig says how the server of a rediss:// URL is verified; nil without TLS.
func tlsConfig(store ruleset.Store, parsed *redisurl.URL) (*tls.Config, error) {
	if !parsed.TLS {
		if store.CABundle != "" || store.InsecureSkipVerify {
			return nil, errors.New("the store has a caBundle or insecureSkipVerify, " +
				"but its url is redis://, which nothing protects: write rediss://")
		}
		return nil, nil
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: parsed.ServerName,
		InsecureSkipVerify: store.InsecureSkipVerify, //nolint:gosec // an explicit choice, warned of by Use
	}
	if store.CABundle == "" {
		return config, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // an image without system roots: the bundle alone counts
	}
	if !roots.AppendCertsFromPEM([]byte(store.CABundle)) {
		return nil, errors.New("the store's caBundle holds no certificate: write PEM, -----BEGIN CERTIFICATE-----")
	}
	config.RootCAs = roots
	return config, nil
}

// newClient connects on the first call.
func newClient(options *redis.UniversalOptions) redis.UniversalClient {
	switch {
	case options.MasterName != "":
		return redis.NewFailoverClient(options.Failover())
	case !options.IsClusterMode:
		return redis.NewClient(options.Simple())
	}
	cluster := options.Cluster()
	// Routing policies ask every new cluster for its commands, with a timeout of
	// five seconds that heeds no context. A script needs none of them.
	cluster.DisableRoutingPolicies = true
	return redis.NewClusterClient(cluster)
}

// hosts of the servers, to keep them out of errors.
func hosts(addrs []string) []string {
	var names []string
	for _, addr := range addrs {
		names = append(names, addr)
		if host, _, err := net.SplitHostPort(addr); err == nil {
			names = append(names, host)
		}
	}
	return names
}
