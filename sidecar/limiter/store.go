package limiter

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// poolSize is the number of connections to a Redis server, at most.
	poolSize = 50
	// bufferBytes of a connection, each way: a script call and its reply fit.
	bufferBytes = 4 << 10
	// maxTimeout of a store.
	maxTimeout = time.Minute
)

// clientOptions reads a store. Its errors name the field and never hold what
// is in it: the URL is a secret.
func clientOptions(store ruleset.Store) (options *redis.UniversalOptions, err error) {
	if timeout := store.Timeout(); timeout <= 0 || timeout > maxTimeout {
		return nil, fmt.Errorf("the store's timeoutMillis is %d: write a number from 1 to %d",
			store.TimeoutMillis, maxTimeout.Milliseconds())
	}
	options, host, err := addressOptions(store.URL)
	if err != nil {
		return nil, err
	}
	if options.TLSConfig, err = tlsConfig(store, host, options.TLSConfig != nil); err != nil {
		return nil, err
	}
	timeout := store.Timeout()
	options.ContextTimeoutEnabled = true // without it a call may outlive its context
	options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = timeout, timeout, timeout
	// A dial goes on behind the call that began it, whose context bounds the
	// call: a handshake slower than one decision still serves the next.
	options.DialTimeout = max(timeout, time.Second)
	options.DialerRetries = 1 // the next call dials again
	options.MaxRetries = 2    // a connection that the server closed, and the one after it
	options.MinRetryBackoff, options.MaxRetryBackoff = time.Millisecond, max(timeout/10, time.Millisecond)
	options.PoolSize = poolSize
	options.ReadBufferSize, options.WriteBufferSize = bufferBytes, bufferBytes
	options.PipelinePoolSize = -1 // nothing is pipelined
	// RESP 2 and a plain handshake: nothing that old servers, proxies and
	// embedded ones do not know, and nothing pushed.
	options.Protocol = 2
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return options, nil
}

// addressOptions reads the URL: where the servers are, which database, who asks,
// and the host name; TLSConfig is set when the scheme asks for TLS.
func addressOptions(text string) (options *redis.UniversalOptions, host string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, "", errors.New("the store's url cannot be read: write redis://[user:password@]host:port[/db], " +
			"with %XX for special characters of the password")
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, "", errors.New("the store's url must begin with redis://, or with rediss:// for TLS")
	}
	if u.Hostname() == "" {
		return nil, "", errors.New("the store's url names no host: write redis://host:port")
	}
	query := u.Query()
	for name := range query {
		if name != "cluster" && name != "addr" {
			return nil, "", errors.New("the store's url has a parameter that is not known: " +
				"write ?cluster=true for Redis Cluster, with addr=host:port for more nodes, and nothing else")
		}
	}
	cluster := query.Get("cluster")
	query.Del("cluster")
	u.RawQuery = query.Encode()
	switch {
	case cluster == "true":
		options, err = clusterAddress(u)
	case cluster != "" && cluster != "false":
		return nil, "", errors.New("the store's url has a cluster parameter that is neither true nor false")
	case len(query) > 0:
		return nil, "", errors.New("the store's url has addr parameters: they are for Redis Cluster, with cluster=true")
	default:
		options, err = singleAddress(u)
	}
	return options, u.Hostname(), err
}

func singleAddress(u *url.URL) (*redis.UniversalOptions, error) {
	parsed, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, errors.New("the store's url has a path that is no database number: write redis://host:port/0, or no path")
	}
	return &redis.UniversalOptions{
		Addrs: []string{parsed.Addr}, DB: parsed.DB,
		Username: parsed.Username, Password: parsed.Password, TLSConfig: parsed.TLSConfig,
	}, nil
}

func clusterAddress(u *url.URL) (*redis.UniversalOptions, error) {
	if u.Path != "" && u.Path != "/" && u.Path != "/0" {
		return nil, errors.New("the store's url names a database: Redis Cluster has only number 0, write no path")
	}
	parsed, err := redis.ParseClusterURL(u.String())
	if err != nil {
		return nil, errors.New("the store's url has an addr parameter that is not host:port")
	}
	return &redis.UniversalOptions{
		Addrs: parsed.Addrs, IsClusterMode: true,
		Username: parsed.Username, Password: parsed.Password, TLSConfig: parsed.TLSConfig,
	}, nil
}

// tlsConfig says how the server of a rediss:// URL is verified; nil without TLS.
func tlsConfig(store ruleset.Store, host string, secure bool) (*tls.Config, error) {
	if !secure {
		if store.CABundle != "" || store.InsecureSkipVerify {
			return nil, errors.New("the store has a caBundle or insecureSkipVerify, " +
				"but its url is redis://, which nothing protects: write rediss://")
		}
		return nil, nil
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host,
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
	if !options.IsClusterMode {
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
