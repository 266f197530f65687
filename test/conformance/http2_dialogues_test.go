package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http2"
)

// http2Dialogues are conversations over HTTP/2 in which it matters who speaks
// when, and how they end.
var http2Dialogues = []conversation{
	{"100-continue", http2Continue},
	{"100-continue that is refused", http2Refused},
	{"server-sent events", http2Events},
	{"bodies both ways at once", http2Duplex},
	{"early answer to a body that goes on", http2EarlyAnswer},
	{"early head, and then the body", http2EarlyHead},
	{"client that leaves before the answer", http2Leaves(false)},
	{"client that leaves within the answer", http2Leaves(true)},
	{"client that leaves within its body", http2CutRequest},
	{"answer cut short", http2CutAnswer("body")},
	{"no answer", http2CutAnswer("")},
	{"server that ends the connection after each answer", http2GoAway},
	{"many streams at once", http2Streams},
	{"stream that nobody reads", http2Unread},
	{"CONNECT", http2Connect},
	{"connections that ask nothing, then a request", http2AsksNothing},
}

// asked is a body that tells whether it was read.
type asked struct {
	io.Reader
	read bool
}

func (a *asked) Read(b []byte) (int, error) {
	a.read = true
	return a.Reader.Read(b)
}

func http2Continue(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		h.noteRequest(r)
		_, _ = io.WriteString(w, "ok")
	})
	h.do(h.http2(), h.request("POST", "/a", strings.NewReader("body"), "Expect", "100-continue"))
}

func http2Refused(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		h.arrived.addf("%s", r.Method)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	body := &asked{Reader: strings.NewReader("body")}
	r := h.request("POST", "/a", body, "Expect", "100-continue")
	r.ContentLength = 4
	h.do(h.http2(), r)
	h.returned.addf("the body was asked for: %t", body.read)
}

func http2Events(h *held) {
	has := make(chan struct{})
	h.application(func(w http.ResponseWriter, r *http.Request) {
		h.noteRequest(r)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			pause(h, has)
		}
	})
	response, err := h.http2().Do(h.request("GET", "/events", nil))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	h.noteHead(response)
	for range 5 {
		var event [len("data: 0\n\n")]byte
		if _, err := io.ReadFull(response.Body, event[:]); err != nil {
			h.t.Fatalf("an event: %v", err)
		}
		h.returned.addf("%q", event)
		has <- struct{}{}
	}
	h.noteBody(response)
}

func http2Duplex(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				h.arrived.addf("%s", ending(err))
				return
			}
			_, _ = io.WriteString(w, "got "+line)
			_ = control.Flush()
		}
	})
	reader, writer := io.Pipe()
	response, err := h.http2().Do(h.request("POST", "/talk", reader))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	h.noteHead(response)
	answers := bufio.NewReader(response.Body)
	for i := range 10 {
		_, _ = fmt.Fprintf(writer, "line %d\n", i) // the answer shows it
		line, err := answers.ReadString('\n')
		if err != nil {
			h.t.Fatalf("line %d: %v", i, err)
		}
		h.returned.addf("%s", line)
	}
	_ = writer.Close()
	rest, err := io.ReadAll(answers)
	h.returned.addf("%q %s", rest, ending(err))
}

// http2EarlyAnswer: the upstream has heard enough, and the client, which could
// go on, has all of the answer.
func http2EarlyAnswer(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 4))
		h.arrived.addf("%s", r.Method)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "no")
	})
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	go func() { _, _ = io.WriteString(writer, "body") }() // and no end
	h.do(h.http2(), h.request("POST", "/a", reader))
}

func http2EarlyHead(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		h.noteRequest(r)
		_, _ = io.WriteString(w, "all heard")
	})
	reader, writer := io.Pipe()
	response, err := h.http2().Do(h.request("POST", "/a", reader))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	h.noteHead(response)
	_, _ = writer.Write(random(1_000_000, 1)) // the upstream's notes show it
	_ = writer.Close()
	h.noteBody(response)
}

// http2Leaves: the upstream sees that nobody waits for it any more.
func http2Leaves(within bool) func(*held) {
	return func(h *held) {
		arrived, seen := make(chan struct{}, 1), make(chan struct{}, 1)
		h.application(func(w http.ResponseWriter, r *http.Request) {
			if within {
				_, _ = io.WriteString(w, "begin")
				_ = http.NewResponseController(w).Flush()
			}
			arrived <- struct{}{}
			pause(h, r.Context().Done())
			seen <- struct{}{}
		})
		r := h.request("GET", "/a", nil)
		ctx, leave := context.WithCancel(r.Context())
		defer leave()
		answered := make(chan error, 1)
		go func() {
			response, err := h.http2().Do(r.WithContext(ctx))
			if err == nil {
				_, err = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
			answered <- err
		}()
		wait(h, "the request arrives", arrived)
		leave()
		wait(h, "the upstream sees that the client has left", seen)
		if err := wait(h, "the client's call returns", answered); !errors.Is(err, context.Canceled) {
			h.t.Errorf("the call returned %v, want that it was cancelled", err)
		}
	}
}

// http2CutRequest: what the client did not finish does not look finished.
func http2CutRequest(h *held) {
	begun, seen := make(chan struct{}, 1), make(chan struct{}, 1)
	h.application(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 4))
		begun <- struct{}{}
		_, err := io.Copy(io.Discard, r.Body)
		h.arrived.addf("body cut short: %t", err != nil)
		seen <- struct{}{}
	})
	reader, writer := io.Pipe()
	answered := make(chan error, 1)
	r := h.request("POST", "/a", reader)
	go func() {
		response, err := h.http2().Do(r)
		if err == nil {
			_ = response.Body.Close()
		}
		answered <- err
	}()
	_, _ = io.WriteString(writer, "body")
	wait(h, "the body begins to arrive", begun)
	_ = writer.CloseWithError(errors.New("the client cannot go on"))
	wait(h, "the upstream sees the end", seen)
	h.returned.addf("answered: %t", wait(h, "the client's call returns", answered) == nil)
}

func http2CutAnswer(begin string) func(*held) {
	return func(h *held) {
		has := make(chan struct{})
		h.application(func(w http.ResponseWriter, _ *http.Request) {
			if begin != "" {
				_, _ = io.WriteString(w, begin)
				_ = http.NewResponseController(w).Flush()
				pause(h, has)
			}
			panic(http.ErrAbortHandler)
		})
		response, err := h.http2().Do(h.request("GET", "/a", nil))
		if err != nil || response.StatusCode == http.StatusBadGateway {
			h.returned.addf("no answer")
			return
		}
		defer func() { _ = response.Body.Close() }()
		close(has)
		h.noteHead(response)
		h.noteBody(response)
	}
}

// http2GoAway: a server may end a connection after any answer, and no request is
// lost to that.
func http2GoAway(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		h.noteRequest(r)
		w.Header().Set("Connection", "close") // a GOAWAY
		_, _ = io.WriteString(w, "ok")
	})
	client := h.http2()
	for i := range 50 {
		h.do(client, h.request("POST", fmt.Sprintf("/%d", i), strings.NewReader("body")))
	}
}

// http2Streams: bodies of streams that share a connection do not mix.
func http2Streams(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	client := h.http2()
	done := make(chan error, 100)
	for i := range cap(done) {
		body := string(random(200_000+i, uint64(i)))
		r := h.request("POST", "/a", io.MultiReader(strings.NewReader(body)))
		go func() {
			response, err := client.Do(r)
			if err != nil {
				done <- err
				return
			}
			defer func() { _ = response.Body.Close() }()
			if got, err := io.ReadAll(response.Body); err != nil || string(got) != body {
				done <- fmt.Errorf("%d of %d bytes came back, or others: %w", len(got), len(body), err)
				return
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := wait(h, "a stream ends", done); err != nil {
			h.t.Error(err)
		}
	}
}

// http2Unread: flow control of one stream holds no other up.
func http2Unread(h *held) {
	h.application(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(random(12_000_000, 1)) })
	client := h.http2()
	unread, err := client.Do(h.request("GET", "/unread", nil))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = unread.Body.Close() }()
	for range 3 {
		h.do(client, h.request("GET", "/read", nil))
	}
	h.noteBody(unread)
}

// http2Connect is the tunnel of RFC 9113 section 8.5.
func http2Connect(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		h.arrived.addf("%s %s%s", r.Method, r.Host, renderHeader("", r.Header))
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(flusher{w}, r.Body)
	})
	reader, writer := io.Pipe()
	r := h.request("CONNECT", "", reader)
	r.URL.Path, r.Host = "", "other.test:443"
	response, err := h.http2().Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	h.returned.addf("%d", response.StatusCode)
	_, _ = io.WriteString(writer, "through") // the echo shows it
	var echo [len("through")]byte
	_, err = io.ReadFull(response.Body, echo[:])
	h.returned.addf("%q %s", echo, ending(err))
	_ = writer.Close()
	rest, err := io.ReadAll(response.Body)
	h.returned.addf("%q %s", rest, ending(err))
}

// http2AsksNothing: clients connect ahead, and some need nothing then.
func http2AsksNothing(h *held) {
	h.application(func(_ http.ResponseWriter, r *http.Request) { h.noteRequest(r) })
	for range 5 {
		c, err := h.connect()
		if err != nil {
			h.t.Fatal(err)
		}
		framer := http2.NewFramer(c, c)
		_, _ = io.WriteString(c, http2.ClientPreface)
		_ = framer.WriteSettings() // what fails, the answer shows
		for acknowledged := false; !acknowledged; {
			frame, err := framer.ReadFrame()
			if err != nil {
				h.t.Fatalf("the server's settings: %v", err)
			}
			settings, ok := frame.(*http2.SettingsFrame)
			acknowledged = ok && settings.IsAck()
		}
		_ = c.Close()
	}
	h.do(h.http2(), h.request("GET", "/a", nil))
}

// flusher sends each write at once.
type flusher struct{ http.ResponseWriter }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	return n, errors.Join(err, http.NewResponseController(f.ResponseWriter).Flush())
}
