package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// client is the Go program beside those of test/e2e/clients: for each line of
// its input, `kept|new user n url`, it asks n times as the user, over kept
// connections or each over a new one, and prints each answer's status and type.
func client() error {
	kept := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var connections, user, url string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &connections, &user, &n, &url); err != nil {
			return fmt.Errorf("want kept|new user n url: %w", err)
		}
		var answers []string
		for range n {
			asking := kept
			if connections == "new" {
				asking = &http.Client{Timeout: kept.Timeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
			}
			answers = append(answers, ask(asking, user, url))
		}
		fmt.Println(strings.Join(answers, " "))
	}
	return lines.Err()
}

func ask(client *http.Client, user, url string) string {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "failed"
	}
	request.Header.Set("X-User-ID", user)
	response, err := client.Do(request)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return "failed"
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "failed"
	}
	return fmt.Sprintf("%d:%s", response.StatusCode, response.Header.Get("Content-Type"))
}
