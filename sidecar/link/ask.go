package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Bounds in bytes on what comes from outside.
const (
	maxToken   = 64 << 10
	maxVersion = 128
	maxReason  = 1 << 10
)

// ask sends one Report and returns the Ruleset that answers it, or nil when
// the operator has nothing newer.
func (c *Client) ask(ctx context.Context) (*ruleset.Ruleset, error) {
	if err := c.dialFor(c.current.Link); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.request)
	defer cancel()
	ctx, end := c.untilNudged(ctx)
	defer end(nil)
	received, err := c.exchange(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errNudged) {
		err = errNudged
	}
	return received, err
}

// exchange sends the Report and reads the answer.
func (c *Client) exchange(ctx context.Context) (*ruleset.Ruleset, error) {
	held, answered := c.whenHeld(ctx)
	defer answered()
	request, err := c.request(held)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	answered()
	if err != nil {
		return nil, fmt.Errorf("asking the operator: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusNoContent:
		return nil, nil
	case http.StatusOK:
		return decode(response.Body, c.limits.ruleset)
	default:
		// The next request may reach another replica of the operator.
		c.http.CloseIdleConnections()
		return nil, statusError(response.StatusCode)
	}
}

// request is the Report in force, proved by the token.
func (c *Client) request(ctx context.Context) (*http.Request, error) {
	said := report(c.current, c.rejected)
	said.NotIntercepting = c.notIntercepting()
	if since := c.storeAway(); c.current.Store != nil && !since.IsZero() {
		said.StoreAwaySince = since.Unix()
	}
	return c.post(ctx, c.link, ruleset.LinkPath, said)
}

// post is a request to the operator with a body in JSON, proved by the token.
func (c *Client) post(ctx context.Context, link ruleset.Link, path string, said any) (*http.Request, error) {
	token, err := readToken(c.tokenFile)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(said)
	if err != nil {
		return nil, fmt.Errorf("encoding what the operator is asked: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+link.Address+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking the operator at %q: %w", link.Address, err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}

// report says what is in force. Without a Store no limit is held over all pods
// together, so then no policy is reported as enforced.
func report(current *ruleset.Ruleset, rejected *ruleset.Rejection) ruleset.Report {
	r := ruleset.Report{Version: current.Version, Rejected: rejected}
	if current.Store != nil {
		r.Enforcing = current.Refs()
	}
	return r
}

// whenHeld enters connected when the request, once written, stays open: the
// operator refuses at once, so one that it holds was accepted. Otherwise a link
// that works would show only when the first answer comes, up to 30 s later.
func (c *Client) whenHeld(ctx context.Context) (_ context.Context, answered func()) {
	var mu sync.Mutex
	var timer *time.Timer
	ended := false
	trace := &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		mu.Lock()
		defer mu.Unlock()
		if info.Err != nil || ended || timer != nil {
			return
		}
		timer = time.AfterFunc(c.limits.held, func() {
			mu.Lock()
			defer mu.Unlock()
			if !ended {
				c.enter(connected, nil)
			}
		})
	}}
	return httptrace.WithClientTrace(ctx, trace), func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		if timer != nil {
			timer.Stop()
		}
	}
}

// dialFor makes the HTTP client anew when the operator's address or
// authorities are others than before.
func (c *Client) dialFor(link ruleset.Link) error {
	if c.http != nil && c.link == link {
		return nil
	}
	client, err := dial(link, 1)
	if err != nil {
		return err
	}
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
	c.link, c.http = link, client
	return nil
}

// curves are without post-quantum ones: what travels is worthless within days
// (tokens, users of Redis, leaves), and the operator would keep a hello of theirs,
// 4 KiB, for each sidecar, as long as it is connected.
var curves = []tls.CurveID{tls.X25519, tls.CurveP256}

// dial makes an HTTP client that reaches the operator over so many connections
// at most.
func dial(link ruleset.Link, connections int) (*http.Client, error) {
	roots, err := verify(link)
	if err != nil {
		return nil, err
	}
	// A dead operator's node sends no FIN: probes notice it within 20 s, where
	// the request's own limit would take a minute.
	dialer := net.Dialer{
		Timeout:         5 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // the environment's proxy is the application's business
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, CurvePreferences: curves},
			TLSHandshakeTimeout:    5 * time.Second,
			DisableCompression:     true,
			MaxIdleConns:           1,
			IdleConnTimeout:        30 * time.Second,
			MaxConnsPerHost:        connections,
			MaxResponseHeaderBytes: 16 << 10,
		},
		// The token is for the operator alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// verify checks that a Link can be used, and returns its authorities.
func verify(link ruleset.Link) (*x509.CertPool, error) {
	host, port, err := net.SplitHostPort(link.Address)
	if err != nil || host == "" || port == "" {
		return nil, failure{nonsense, fmt.Errorf("the operator's address %q is not host:port", clip(link.Address, maxVersion))}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(link.CABundle)) {
		return nil, failure{nonsense, errors.New("the link's caBundle holds no PEM certificate")}
	}
	return roots, nil
}

// acceptable says whether a received Ruleset may replace the one in force. Its
// Version is not compared with its content: fields that a newer operator knows
// and this sidecar does not are part of the former and lost from the latter.
func acceptable(r *ruleset.Ruleset, namespace string) error {
	if r.Version == "" || len(r.Version) > maxVersion {
		return fmt.Errorf("its version has %d bytes; 1 to %d are expected", len(r.Version), maxVersion)
	}
	if r.Namespace != namespace {
		return fmt.Errorf("it is for namespace %q, and this pod is in %q", clip(r.Namespace, maxVersion), namespace)
	}
	if _, err := verify(r.Link); err != nil {
		return err
	}
	return nil
}

// decode reads a Ruleset of bounded size; unknown fields are a newer operator's.
func decode(from io.Reader, most int64) (*ruleset.Ruleset, error) {
	encoded, err := io.ReadAll(io.LimitReader(from, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading a Ruleset: %w", err)
	}
	if int64(len(encoded)) > most {
		return nil, failure{nonsense, fmt.Errorf("a Ruleset of more than %d bytes: select fewer policies for this pod", most)}
	}
	r := new(ruleset.Ruleset)
	if err := json.Unmarshal(encoded, r); err != nil {
		// Without the decoder's text, which may quote a value.
		return nil, failure{nonsense, errors.New("a Ruleset that is not valid JSON")}
	}
	return r, nil
}

// readToken returns the projected service-account token.
func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", failure{refused, fmt.Errorf("reading this pod's token: %w", err)}
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", failure{refused, fmt.Errorf("reading this pod's token: %w", err)}
	}
	token := strings.TrimSpace(string(content))
	if token == "" || len(content) > maxToken || strings.ContainsAny(token, "\r\n") {
		return "", failure{refused, fmt.Errorf("this pod's token in %s is empty, too long or of several lines", file)}
	}
	return token, nil
}
