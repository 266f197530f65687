package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// report is what became of some requests.
type report struct {
	// Statuses counts answers by status code, and "error" for none.
	Statuses map[string]int `json:"statuses"`
	// AnsweredBy counts answers by the application's pod; answers of a sidecar
	// are not the application's.
	AnsweredBy map[string]int `json:"answeredBy"`
	// Refused is the first answer that was 429 or 503.
	Refused *refusal `json:"refused,omitempty"`
	// Last is the application's last answer.
	Last json.RawMessage `json:"last,omitempty"`
	// Peer is whose certificate the last answer over TLS came with.
	Peer *peer `json:"peer,omitempty"`
	// P50Micros, P99Micros and MaxMicros are the requests' durations.
	P50Micros int64 `json:"p50Micros"`
	P99Micros int64 `json:"p99Micros"`
	MaxMicros int64 `json:"maxMicros"`

	Error string `json:"error,omitempty"`
}

type refusal struct {
	Status  int                 `json:"status"`
	Headers map[string][]string `json:"headers"`
	Body    json.RawMessage     `json:"body"`
}

// peer is a certificate.
type peer struct {
	Issuer string `json:"issuer"`
	Serial string `json:"serial"`
}

type headers http.Header

func (h headers) String() string { return "" }
func (h headers) Set(text string) error {
	name, value, found := strings.Cut(text, ":")
	if !found {
		return fmt.Errorf("want Name: value")
	}
	http.Header(h).Add(name, strings.TrimSpace(value))
	return nil
}

// caller sends requests and keeps the report.
type caller struct {
	client  *http.Client
	headers http.Header
	url     string

	mu        sync.Mutex
	report    report
	durations []time.Duration
}

func call(arguments []string) error {
	c := &caller{headers: http.Header{}, report: report{Statuses: map[string]int{}, AnsweredBy: map[string]int{}}}
	flags := flag.NewFlagSet("call", flag.ExitOnError)
	n := flags.Int("n", 1, "requests")
	clients := flags.Int("c", 1, "at a time")
	keepAlive := flags.Bool("keepalive", false, "reuse connections")
	timeout := flags.Duration("timeout", 10*time.Second, "for one request")
	flags.Var(headers(c.headers), "H", "Name: value (repeats)")
	_ = flags.Parse(arguments)
	if flags.NArg() != 1 {
		return errors.New("call wants one URL")
	}
	c.url = flags.Arg(0)
	c.client = &http.Client{Timeout: *timeout, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: !*keepAlive, MaxIdleConnsPerHost: *clients,
	}}

	var workers sync.WaitGroup
	next := make(chan struct{})
	for range *clients {
		workers.Go(func() {
			for range next {
				c.send()
			}
		})
	}
	for range *n {
		next <- struct{}{}
	}
	close(next)
	workers.Wait()
	return json.NewEncoder(os.Stdout).Encode(c.finish())
}

func (c *caller) send() {
	began := time.Now()
	status, header, body, peer, err := c.request()
	took := time.Since(began)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.durations = append(c.durations, took)
	if err != nil {
		c.report.Statuses["error"]++
		c.report.Error = err.Error()
		return
	}
	c.report.Statuses[strconv.Itoa(status)]++
	c.report.Peer = peer
	if by := header.Get("X-Answered-By"); by != "" {
		c.report.AnsweredBy[by]++
		c.report.Last = body
	}
	refused := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
	if refused && c.report.Refused == nil {
		if !json.Valid(body) {
			body, _ = json.Marshal(string(body))
		}
		c.report.Refused = &refusal{Status: status, Headers: header, Body: body}
	}
}

func (c *caller) request() (status int, header http.Header, body []byte, from *peer, err error) {
	request, err := http.NewRequest(http.MethodGet, c.url, nil)
	if err != nil {
		return 0, nil, nil, nil, err
	}
	request.Header = c.headers.Clone()
	response, err := c.client.Do(request)
	if err != nil {
		return 0, nil, nil, nil, err
	}
	defer response.Body.Close()
	if response.TLS != nil {
		leaf := response.TLS.PeerCertificates[0]
		from = &peer{Issuer: leaf.Issuer.CommonName, Serial: leaf.SerialNumber.String()}
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, response.Header, body, from, err
}

func (c *caller) finish() report {
	slices.Sort(c.durations)
	if n := len(c.durations); n > 0 {
		c.report.P50Micros = c.durations[n/2].Microseconds()
		c.report.P99Micros = c.durations[n*99/100].Microseconds()
		c.report.MaxMicros = c.durations[n-1].Microseconds()
	}
	return c.report
}
