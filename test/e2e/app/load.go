package main

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// losses is what became of a load's requests.
type losses struct {
	Statuses map[string]int `json:"statuses"`
	// Errors counts requests without an answer, by what was wrong.
	Errors map[string]int `json:"errors"`
	// AnsweredBy counts answers by the application's pod.
	AnsweredBy map[string]int `json:"answeredBy"`
}

// load sends requests over kept connections until its input ends, and prints
// what became of them. A request that fails is not tried again.
func load(arguments []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	clients := flags.Int("c", 4, "connections")
	pause := flags.Duration("pause", 10*time.Millisecond, "between an answer and the next request of a connection")
	_ = flags.Parse(arguments)
	if flags.NArg() != 1 {
		return errors.New("load wants one URL")
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	seen := losses{map[string]int{}, map[string]int{}, map[string]int{}}
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range *clients {
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}} // one connection
		workers.Go(func() {
			for {
				status, by, err := sendOnce(client, flags.Arg(0))
				mu.Lock()
				if err != nil {
					seen.Errors[err.Error()]++
				} else {
					seen.Statuses[strconv.Itoa(status)]++
					seen.AnsweredBy[by]++
				}
				mu.Unlock()
				select {
				case <-ended:
					return
				case <-time.After(*pause):
				}
			}
		})
	}
	workers.Wait()
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// sendOnce sends a request that net/http cannot send twice: it has a body that
// cannot be read again.
func sendOnce(client *http.Client, url string) (status int, by string, err error) {
	request, err := http.NewRequest(http.MethodPost, url, io.NopCloser(strings.NewReader("once")))
	if err != nil {
		return 0, "", err
	}
	request.ContentLength = int64(len("once"))
	request.Header.Set("X-User-ID", "load")
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Header.Get("X-Answered-By"), err
}
