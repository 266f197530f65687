package conformance

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/netns"
)

// maxResident is what the sidecar may use, whatever passes through it.
const maxResident = 64 << 20

// volume is how many bytes pass each way.
func volume() int64 {
	if full {
		return 5 << 30
	}
	return 256 << 20
}

var protocols = map[string]func(*http.Protocols){
	"HTTP1": func(p *http.Protocols) { p.SetHTTP1(true) },
	"HTTP2": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
}

// Bodies of gigabytes pass as they are, and cost the real sidecar no memory.
func TestVolume(t *testing.T) {
	p := newPod(t)
	size := volume()
	p.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			received := new(hashed)
			_, err := io.Copy(received, r.Body)
			_, _ = fmt.Fprintf(w, "%016x %d %v", received.Sum64(), received.n, err)
			return
		}
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		}
		_, _ = io.Copy(w, contentOf(size)) // cut short, the client sees so
	})
	want := new(hashed)
	_, _ = io.Copy(want, contentOf(size))
	for protocol, set := range protocols {
		client := p.client(set)
		for _, kind := range []struct {
			name, target string
			body         bool
			length       int64
		}{
			{"response with a length", "/?length", false, 0},
			{"response without a length", "/", false, 0},
			{"request with a length", "/", true, size},
			{"request without a length", "/", true, -1},
		} {
			t.Run(protocol+" "+kind.name, func(t *testing.T) {
				p.forgetPeak()
				start := time.Now()
				if kind.body {
					upload(t, client, kind.target, size, kind.length, want)
				} else {
					download(t, client, kind.target, want)
				}
				took, peak := time.Since(start), p.memory("VmHWM")
				t.Logf("%d MiB in %v, %.0f MiB/s, at most %.1f MiB resident", size>>20, took.Round(time.Millisecond), float64(size>>20)/took.Seconds(), mib(peak))
				if peak > maxResident {
					t.Errorf("the sidecar had %d MiB resident, want at most %d MiB", peak>>20, maxResident>>20)
				}
			})
		}
	}
}

// Clients that do not read cost the real sidecar no memory either.
func TestVolumeThatNobodyReads(t *testing.T) {
	p := newPod(t)
	const clients = 32
	var sent atomic.Int64
	p.answer(func(w http.ResponseWriter, _ *http.Request) {
		piece := random(1<<16, 1)
		for {
			n, err := w.Write(piece)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	for name, set := range protocols {
		t.Run(name, func(t *testing.T) {
			p.forgetPeak()
			client := p.client(set)
			sent.Store(0)
			for range clients {
				response, err := client.Get("http://" + upstreamName)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = response.Body.Close() }()
			}
			under := stalled(t.Context().Done(), &sent)
			peak := p.memory("VmHWM")
			t.Logf("%d responses of which the servers have sent %.0f MiB and the clients read nothing: at most %.1f MiB resident", clients, mib(under), mib(peak))
			if peak > maxResident {
				t.Errorf("the sidecar had %d MiB resident, want at most %d MiB", peak>>20, maxResident>>20)
			}
		})
	}
}

func download(t *testing.T, client *http.Client, target string, want *hashed) {
	t.Helper()
	response, err := client.Get("http://" + upstreamName + target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	got := new(hashed)
	if _, err := io.Copy(got, response.Body); err != nil || got.n != want.n || got.Sum64() != want.Sum64() {
		t.Errorf("%d bytes came with sum %016x, %v; want %d with %016x", got.n, got.Sum64(), err, want.n, want.Sum64())
	}
}

func upload(t *testing.T, client *http.Client, target string, size, length int64, want *hashed) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+upstreamName+target, contentOf(size))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = length
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	got, err := io.ReadAll(response.Body)
	if expected := fmt.Sprintf("%016x %d <nil>", want.Sum64(), want.n); err != nil || string(got) != expected {
		t.Errorf("the upstream got %q, %v; want %q", got, err, expected)
	}
}

// answer serves HTTP on the upstream.
func (p *pod) answer(handler http.HandlerFunc) {
	p.t.Helper()
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols), ReadHeaderTimeout: patience}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	l := p.peer.Listen(netns.Peer4 + ":80")
	go func() { _ = server.Serve(l) }() // until Close
	p.t.Cleanup(func() { _ = server.Close() })
}

// client is an application's.
func (p *pod) client(set func(*http.Protocols)) *http.Client {
	transport := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
	}
	set(transport.Protocols)
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// hashed is a hash that counts.
type hashed struct {
	maphash.Hash
	n int64
}

func (h *hashed) Write(b []byte) (int, error) {
	if h.n == 0 {
		h.SetSeed(seed)
	}
	h.n += int64(len(b))
	return h.Hash.Write(b)
}

// content is bytes of which no two stretches are the same: a block of random
// ones, numbered each time.
type content struct {
	block []byte
	next  uint64
	rest  []byte
}

func contentOf(size int64) io.Reader {
	return io.LimitReader(&content{block: random(1<<20, 1)}, size)
}

func (c *content) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		binary.BigEndian.PutUint64(c.block, c.next)
		c.next++
		c.rest = c.block
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
