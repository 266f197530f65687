package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/proxy"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// namespace that the policies and the task are taken to be in.
	namespace = "demo"
	// clients call at the same time for one user.
	clients = 8
)

// readPolicies reads every RateLimitPolicy of a folder's YAML files.
func readPolicies(folder string) ([]v1alpha1.RateLimitPolicy, error) {
	files, err := filepath.Glob(filepath.Join(folder, "ratelimitpolicy_*.yaml"))
	if err != nil {
		return nil, err
	}
	var policies []v1alpha1.RateLimitPolicy
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var policy v1alpha1.RateLimitPolicy
		if err := yaml.UnmarshalStrict(text, &policy); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		policies = append(policies, policy)
	}
	if len(policies) == 0 {
		return nil, fmt.Errorf("no ratelimitpolicy_*.yaml in %s: run it from the project's root, or name the folder with -samples", folder)
	}
	return policies, nil
}

// stage is one pod's sidecar with everything around it.
type stage struct {
	redis   *miniredis.Miniredis
	limiter *limiter.Limiter
	reports *report.Recorder
	proxy   *proxy.Proxy
	folder  string // of programs that were built; empty: none
	// services by the quota's name.
	services map[string]*service
}

// service stands for a provider's API.
type service struct {
	// entrance is the sidecar's listener for calls to this service. In a pod
	// there is one for all of them and the kernel knows the destination.
	entrance net.Listener
	upstream *http.Server
	address  netip.AddrPort
	// answered requests, and those that arrived with the header that the
	// policy strips.
	answered, leaked atomic.Int64
}

func build(policies []v1alpha1.RateLimitPolicy) (*stage, error) {
	redis, err := miniredis.Run()
	if err != nil {
		return nil, fmt.Errorf("starting the embedded Redis: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	metrics := prometheus.NewRegistry()
	h := &stage{
		redis:    redis,
		limiter:  limiter.New(limiter.Options{Logger: logger, Registerer: metrics}),
		reports:  report.New(report.Options{Pod: "demo", Logger: logger, Registerer: metrics}),
		services: map[string]*service{},
	}
	h.proxy = proxy.New(proxy.Config{
		Taker:       h.limiter,
		Destination: h.destination,
		Reports:     h.reports,
		Registerer:  metrics,
		Logger:      logger,
	})
	store := &ruleset.Store{URL: "redis://" + redis.Addr(), TimeoutMillis: 1000}
	rules := programming.Compile(namespace, policies, map[string]string{"app": "demo"}, programming.Settings{Store: store})
	if len(rules.Policies) != len(policies) {
		return nil, fmt.Errorf("%d of %d policies are accepted: %v", len(rules.Policies), len(policies), programming.Accept(policies))
	}
	if err := errors.Join(h.limiter.Use(rules.Store), h.proxy.Apply(rules)); err != nil {
		return nil, err
	}
	h.reports.Use(rules.Store)
	h.reports.Start()
	for i := range policies {
		if err := h.open(policies[i].ServiceName(), strippedHeader(&policies[i])); err != nil {
			return nil, err
		}
	}
	for _, s := range h.services { // all are known before any is asked for
		go func() { _ = h.proxy.Serve(ruleset.Outbound, s.entrance) }()
	}
	return h, nil
}

// strippedHeader is the header that names the caller and must not arrive.
func strippedHeader(policy *v1alpha1.RateLimitPolicy) string {
	for _, source := range policy.Spec.Identity.Sources {
		if source.Header != nil {
			return source.Header.Name
		}
	}
	return ""
}

// open starts a service's server and the sidecar's entrance to it.
func (h *stage) open(name, stripped string) error {
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	entrance, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &service{entrance: entrance, address: upstream.Addr().(*net.TCPAddr).AddrPort()}
	s.upstream = &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.answered.Add(1)
			if r.Header.Get(stripped) != "" {
				s.leaked.Add(1)
			}
			_, _ = io.WriteString(w, "ok\n")
		}),
	}
	h.services[name] = s
	go func() { _ = s.upstream.Serve(upstream) }()
	return nil
}

// destination does what the kernel's SO_ORIGINAL_DST does in a pod.
func (h *stage) destination(conn net.Conn) (netip.AddrPort, error) {
	for _, s := range h.services {
		if s.entrance.Addr().String() == conn.LocalAddr().String() {
			return s.address, nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no service behind %s", conn.LocalAddr())
}

func (h *stage) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = h.proxy.Shutdown(ctx)
	for _, s := range h.services {
		_ = s.upstream.Close()
	}
	h.reports.Close()
	h.limiter.Close()
	h.redis.Close()
	if h.folder != "" {
		_ = os.RemoveAll(h.folder)
	}
}

// outcome is a row with what is needed to check it.
type outcome struct {
	row
	// began and refused are when the first call was sent and when the first
	// refusal arrived.
	began, refused time.Time
}

// call sends a user's calls to a service through the sidecar.
func (h *stage) call(ctx context.Context, policy *v1alpha1.RateLimitPolicy, user string, sent int) (outcome, error) {
	got := outcome{row: row{Service: policy.ServiceName(), User: user, Sent: sent}, began: time.Now()}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()

	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for range sent {
		group.Go(func() error {
			response, err := h.ask(ctx, client, policy, user)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return got.count(response)
		})
	}
	return got, group.Wait()
}

// ask sends one call of a user's through the sidecar; its answer is read.
func (h *stage) ask(ctx context.Context, client *http.Client, policy *v1alpha1.RateLimitPolicy, user string) (*http.Response, error) {
	s := h.services[policy.ServiceName()]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.entrance.Addr().String()+"/v1/me", nil)
	if err != nil {
		return nil, err
	}
	request.Host = strings.TrimPrefix(policy.Spec.Hosts[0], "*.")
	request.Header.Set(strippedHeader(policy), user)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response, err
}

func (o *outcome) count(response *http.Response) error {
	switch response.StatusCode {
	case http.StatusOK:
		o.Admitted++
		return nil
	case http.StatusTooManyRequests:
		o.Limited++
	default:
		return fmt.Errorf("unexpected answer %s", response.Status)
	}
	if o.refused.IsZero() {
		seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
		if err != nil {
			return fmt.Errorf("reading Retry-After: %w", err)
		}
		o.refused, o.RetryAfterSeconds = time.Now(), seconds
	}
	return nil
}

// Limits above mostExact count a call to the end of its slice, one of so many of
// the window (docs/limiter.md).
const (
	mostExact = 128
	slices    = 200
)

// check compares with the promise: as many admitted as the limit allows, and a
// Retry-After that is when the user's first call leaves the window.
func (o *outcome) check(admitted int, window time.Duration) error {
	if o.Admitted != admitted || o.Limited != o.Sent-admitted {
		return fmt.Errorf("%s, %s: %d of %d calls admitted and %d limited, want %d and %d",
			o.Service, o.User, o.Admitted, o.Sent, o.Limited, admitted, o.Sent-admitted)
	}
	if o.Limited == 0 {
		return nil
	}
	earliest, latest := window-o.refused.Sub(o.began), window
	if admitted > mostExact {
		latest += window/slices + time.Second // which Retry-After rounds up to
	}
	if retryAfter := time.Duration(o.RetryAfterSeconds) * time.Second; retryAfter < earliest || retryAfter > latest {
		return fmt.Errorf("%s, %s: Retry-After is %v, want %v to %v", o.Service, o.User, retryAfter, earliest, latest)
	}
	return nil
}

// checkUpstream holds what arrived against what was admitted.
func (h *stage) checkUpstream(policy *v1alpha1.RateLimitPolicy) error {
	s := h.services[policy.ServiceName()]
	limit := int64(policy.Spec.Limits[0].Requests)
	if want := limit + limit/2; s.answered.Load() != want {
		return fmt.Errorf("%s answered %d requests, want %d", policy.ServiceName(), s.answered.Load(), want)
	}
	if leaked := s.leaked.Load(); leaked != 0 {
		return fmt.Errorf("%s saw the stripped header on %d requests, want none", policy.ServiceName(), leaked)
	}
	return nil
}
