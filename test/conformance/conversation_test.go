package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// conversation is what a client and an upstream say to each other. It is held
// with and without the sidecar, and neither may see a difference.
type conversation struct {
	name string
	// hold lets the upstream listen, and then speaks as the client, on the test's goroutine.
	hold func(*held)
}

// held is a conversation that is being held on a way.
type held struct {
	t     testing.TB
	way   way
	store *store
	path  path
	// over is closed at its end.
	over     chan struct{}
	arrived  notes // what the upstream got
	returned notes // what the client got
}

// notes are what one side got, in order: strings and messages.
type notes struct {
	mu   sync.Mutex
	list []any
}

func (n *notes) add(what any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, what)
}

func (n *notes) addf(format string, args ...any) { n.add(fmt.Sprintf(format, args...)) }

// text renders the notes, messages by render.
func (n *notes) text(render func(*message) string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for _, what := range n.list {
		if m, ok := what.(*message); ok {
			b.WriteString(render(m))
			continue
		}
		fmt.Fprintln(&b, what)
	}
	return b.String()
}

// on holds the conversation on a way.
func (c conversation) on(t testing.TB, s *store, w way) *held {
	t.Helper()
	h := &held{t: t, way: w, store: s, over: make(chan struct{})}
	defer close(h.over)
	c.hold(h)
	return h
}

// compare holds conversations with and without the sidecar. The renderings say
// what of a message must be the same.
func compare(t *testing.T, ways []way, conversations []conversation, render func(*message) string) {
	t.Helper()
	s := newStore(t)
	for _, c := range conversations {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, w := range ways {
				t.Run(w.name, func(t *testing.T) {
					t.Parallel()
					want, got := c.on(t, s, without(w)), c.on(t, s, w)
					expectSame(t, "the upstream", want.arrived.text(render), got.arrived.text(render))
					expectSame(t, "the client", want.returned.text(render), got.returned.text(render))
				})
			}
		})
	}
}

func expectSame(t testing.TB, who, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	t.Errorf("%s got something else through the sidecar, from line %d on.\nwithout:\n%s\nwith:\n%s", who, same+1, around(a, same), around(b, same))
}

// around is an excerpt around a line.
func around(lines []string, at int) string {
	from, to := max(0, at-6), min(len(lines), at+10)
	return "    " + strings.Join(lines[min(from, to):to], "\n    ")
}

// upstream serves each connection with speak, and opens the way to it.
func (h *held) upstream(speak func(*conn)) {
	h.t.Helper()
	l := h.way.listen(h.t)
	h.open(l.Addr())
	go func() {
		for {
			accepted, err := l.AcceptTCP()
			if err != nil {
				return
			}
			c := h.upstreamConn(accepted)
			go func() {
				defer func() { _ = c.Close() }()
				speak(c)
			}()
		}
	}()
}

func (h *held) open(upstream net.Addr) {
	h.t.Helper()
	h.path = h.way.open(h.t, h.store, h.way, upstream)
}

// wait waits as the client for what the upstream tells.
func wait[T any](h *held, what string, told <-chan T) T {
	h.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case value := <-told:
		return value
	case <-timer.C:
		h.t.Fatalf("waited in vain: %s", what)
		panic("unreachable")
	}
}

// pause waits as the upstream for what the client tells, at most until the
// conversation is over.
func pause[T any](h *held, told <-chan T) {
	select {
	case <-told:
	case <-h.over:
	}
}

// named are the conversations with these names.
func named(conversations []conversation, names ...string) []conversation {
	chosen := slices.DeleteFunc(slices.Clone(conversations), func(c conversation) bool { return !slices.Contains(names, c.name) })
	if len(chosen) != len(names) {
		panic(fmt.Sprintf("%d conversations have the names %q", len(chosen), names))
	}
	return chosen
}

// ending tells how reading came to its end.
func ending(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return "end"
	}
	return "reset"
}
