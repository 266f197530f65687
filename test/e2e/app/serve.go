package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
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

// application answers every request with what it saw.
type application struct {
	server           *http.Server
	requests, probes atomic.Int64
	// leaving: SIGTERM has come.
	leaving atomic.Bool
}

// serve answers until its end. After /die it goes on running but closes its
// ports, as a hung or crashed application does.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	port := flags.Int("port", 8080, "TCP port")
	tlsPort := flags.Int("tls-port", 0, "TCP port for HTTPS, HTTP/2 too; 0: none")
	tlsDir := flags.String("tls-dir", "", "directory of tls.crt and tls.key")
	drain := flags.Duration("drain", 0, "how long to go on serving after SIGTERM; 0: end at once")
	_ = flags.Parse(arguments)

	mux := http.NewServeMux()
	a := &application{server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}}
	a.handle(mux)
	(&model{}).handle(mux)
	ended := make(chan error, 2)
	listen := func(port int, serve func(net.Listener) error) {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			ended <- err
			return
		}
		go func() { ended <- serve(listener) }()
	}
	listen(*port, a.server.Serve)
	if *tlsPort != 0 {
		listen(*tlsPort, func(l net.Listener) error {
			return a.server.ServeTLS(l, filepath.Join(*tlsDir, "tls.crt"), filepath.Join(*tlsDir, "tls.key"))
		})
	}
	if *drain > 0 {
		return a.leave(*drain, ended)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return idle() // dead to the network, alive to the kubelet
}

// leave goes on after SIGTERM until the nodes' proxies have heard that this pod
// goes, meanwhile sends clients away one by one, each with its answer, and
// lets the last ones end.
func (a *application) leave(drain time.Duration, ended <-chan error) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	select {
	case <-told:
	case err := <-ended:
		return err
	}
	a.leaving.Store(true)
	time.Sleep(drain)
	return a.server.Shutdown(context.Background())
}

func (a *application) handle(mux *http.ServeMux) {
	pod, _ := os.Hostname()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) { a.probes.Add(1) })
	mux.HandleFunc("/die", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		go func() { _ = a.server.Shutdown(context.Background()) }() // this answer is the last
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if a.leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("X-Answered-By", pod)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{
			Pod: pod, Host: r.Host, Path: r.URL.Path, Headers: r.Header,
			Requests: a.requests.Add(1), Probes: a.probes.Load(),
		})
	})
}
