// Package redisurl reads the URLs that name a Redis: the limiter's store to the
// sidecar and the operator, the tasks' broker to the worker.
//
//	redis://[user:password@]host:port[/database]
//	redis://[user:password@]host:port?cluster=true&addr=host:port
//	redis://[user:password@]sentinel:port[/database]?master_name=NAME&addr=sentinel:port
//
// rediss:// is the same with TLS. addr repeats, for more nodes of a Redis Cluster
// or more sentinels. The user and the password are the servers';
// sentinel_username and sentinel_password are what the sentinels ask for.
// Without a port a server has 6379, a sentinel 26379.
package redisurl

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// URL is what one says.
type URL struct {
	// Options say where the servers are, which database, and who asks. TLSConfig
	// is nil, as everything else that no URL says.
	Options redis.UniversalOptions
	// TLS: rediss://.
	TLS bool
	// ServerName is the name that the servers' certificates must have; empty
	// behind Sentinel, where each has the name or address that it is reached by.
	ServerName string
	// Query holds the parameters of the caller's own.
	Query url.Values
}

// parameters of every URL.
var parameters = []string{"cluster", "master_name", "sentinel_username", "sentinel_password", "addr"}

// Parse reads a URL that may have some parameters of the caller's own. Its
// errors begin with the subject ("the store's url") and hold nothing of the
// text: it is a secret.
func Parse(subject, text string, own ...string) (*URL, error) {
	parsed, err := parse(text, own)
	if err != nil {
		return nil, errors.New(subject + " " + err.Error())
	}
	return parsed, nil
}

func parse(text string, own []string) (*URL, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	switch {
	case err != nil:
		return nil, errors.New("cannot be read: write redis://[user:password@]host:port[/db], or rediss:// for TLS, " +
			"with %XX for special characters of the password")
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return nil, errors.New("must begin with redis://, or with rediss:// for TLS: write redis://[user:password@]host:port[/db]")
	case u.Hostname() == "":
		return nil, errors.New("names no host: write redis://host:port")
	}
	query := u.Query()
	for name := range query {
		if !slices.Contains(parameters, name) && !slices.Contains(own, name) {
			return nil, errors.New("has a parameter that is not known: there are " + strings.Join(slices.Concat(parameters, own), ", "))
		}
	}
	p := &URL{TLS: u.Scheme == "rediss", ServerName: u.Hostname(), Query: url.Values{}}
	for _, name := range own {
		if query.Has(name) {
			p.Query[name] = query[name]
		}
	}
	o := &p.Options
	o.Username = u.User.Username()
	o.Password, _ = u.User.Password()
	if o.DB, err = database(u.Path); err != nil {
		return nil, err
	}
	if err := p.kind(query); err != nil {
		return nil, err
	}
	return p, p.addresses(u.Host, query["addr"])
}

// kind says whether it is a cluster, or behind Sentinel.
func (p *URL) kind(query url.Values) error {
	o := &p.Options
	switch query.Get("cluster") {
	case "", "false":
	case "true":
		o.IsClusterMode = true
	default:
		return errors.New("has a cluster parameter that is neither true nor false")
	}
	o.MasterName = query.Get("master_name")
	o.SentinelUsername, o.SentinelPassword = query.Get("sentinel_username"), query.Get("sentinel_password")
	switch {
	case o.MasterName == "" && (query.Has("master_name") || o.SentinelUsername != "" || o.SentinelPassword != ""):
		return errors.New("has parameters for Sentinel without the master's name: write master_name=NAME")
	case o.IsClusterMode && o.MasterName != "":
		return errors.New("names a Redis Cluster and a master behind Sentinel: write cluster=true or master_name=NAME")
	case o.IsClusterMode && o.DB != 0:
		return errors.New("names a database: Redis Cluster has only number 0, write no path")
	case query.Has("addr") && !o.IsClusterMode && o.MasterName == "":
		return errors.New("has addr parameters: they are for Redis Cluster, with cluster=true, and for Sentinel, with master_name=NAME")
	}
	return nil
}

func (p *URL) addresses(first string, more []string) error {
	port := "6379"
	if p.Options.MasterName != "" {
		port, p.ServerName = "26379", ""
	}
	for _, address := range append([]string{first}, more...) {
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(strings.Trim(address, "[]"), port)
		}
		if u, err := url.Parse("redis://" + address); err != nil || u.Host != address || u.Hostname() == "" {
			return errors.New("has an addr parameter that is not host:port")
		}
		p.Options.Addrs = append(p.Options.Addrs, address)
	}
	return nil
}

func database(path string) (int, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return 0, nil
	}
	number, err := strconv.ParseUint(path, 10, 16)
	if err != nil {
		return 0, errors.New("has a path that is no database number: write redis://host:port/0, or no path")
	}
	return int(number), nil
}
