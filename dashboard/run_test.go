package dashboard

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"
)

// What is asked when the dashboard ends is answered still.
func TestAnswersAreGivenBeforeTheEnd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	returned := make(chan struct{})
	server := serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
		select {
		case <-returned:
			t.Error("the server has ended before its answer")
		case <-time.After(time.Second): // it has not by then
		}
	}), listener)
	go func() {
		defer close(returned)
		if err := server.Start(ctx); err != nil {
			t.Error(err)
		}
	}()
	answer, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	<-returned
}
