package main

import (
	"context"
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// answer is what the application says of a request.
type answer struct {
	Pod     string              `json:"pod"`
	Host    string              `json:"host"`
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
	// Requests answered so far on paths other than /healthz, and on /healthz.
	Requests int64 `json:"requests"`
	Probes   int64 `json:"probes"`
}

// serve answers every request with what it saw. After /die it goes on running
// but closes its port, as a hung or crashed application does.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	port := flags.Int("port", 8080, "TCP port")
	_ = flags.Parse(arguments)

	listener, err := net.Listen("tcp", ":"+strconv.Itoa(*port))
	if err != nil {
		return err
	}
	pod, _ := os.Hostname()
	var requests, probes atomic.Int64
	mux := http.NewServeMux()
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) { probes.Add(1) })
	mux.HandleFunc("/die", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		go func() { _ = server.Shutdown(context.Background()) }() // this answer is the last
	})
	(&model{}).handle(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Answered-By", pod)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{
			Pod: pod, Host: r.Host, Path: r.URL.Path, Headers: r.Header,
			Requests: requests.Add(1), Probes: probes.Load(),
		})
	})
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return idle() // dead to the network, alive to the kubelet
}
